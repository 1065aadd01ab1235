"""What a choice costs: the shape of what a method chooses from, and what `instsel plan` adds up of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

FLOAT32 = 4
FLOAT64 = 8
MIB = 2**20
PASS_BYTES = 128 * MIB
"""Of a pass over blocks of rows: copies of a block, and values of the columns that wait to be sorted."""
INDEX_ROW_BYTES = 330
"""Of the pool's index: the table, ids as Python texts twice, and tokens by id."""


@dataclass(frozen=True)
class Shape:
    """What a method chooses from.

    Attributes:
        rows: Rows of the pool.
        chosen: Rows of the selection; a fraction where a group has so many of them on average.
        columns: Validation rows, or subtasks, that rows are scored against.
        checkpoints: Checkpoints that gradients were taken at.
        dim: Entries of a gradient's sketch.
        embedding: Entries of a prompt's embedding.
        hidden: Entries of a hidden state.
        tokens: Of a row of the pool, on average.
        groups: "source" and "task" -> how many rows each has.
        damping: Of the influence that the method reads; None for cosines.
    """

    rows: int
    chosen: float
    columns: int = 0
    checkpoints: int = 0
    dim: int = 0
    embedding: int = 0
    hidden: int = 0
    tokens: float = 0.0
    groups: Mapping[str, Sequence[float]] = field(default_factory=dict)
    damping: float | None = None

    def width(self, requires: str) -> int:
        """Return the entries that a method reads of a row, or scores it by; 0 where the index or losses are all."""
        widths = {
            "influence": self.columns,
            "prompts": self.columns,
            "gradients": self.checkpoints * self.dim,
            "embeddings": self.embedding,
            "hidden_states": self.hidden,
        }
        return widths.get(requires, 0)


@dataclass(frozen=True)
class MethodCost:
    """What one choice takes. Its seconds are timed, on a few rows, and grow as `work` does.

    Attributes:
        work: A number that grows as the time of a choice does while the widths of rows stay as they are.
        memory: Bytes of the driver beside the libraries: ids, the data where it is held in memory, and working memory.
        scratch: Bytes of the temporary file that data too large for the memory is laid out in (`instsel.io.matrix`).
    """

    work: float
    memory: int
    scratch: int


COSTED = ("influence", "gradients", "hidden_states", "likelihood")
"""What a method requires that takes passes of the model which is trained."""


@dataclass(frozen=True)
class PassTokens:
    """What goes through the model for a selection.

    Attributes:
        pool: Tokens of the pool.
        answers: Tokens of its answers alone, each with the token before it.
        validation: Tokens of the validation rows.
        warmup: Tokens that the warmup trained on, epochs counted.
        checkpoints: That gradients are taken at.
    """

    pool: float
    answers: float
    validation: float
    warmup: float
    checkpoints: int


def selection_cost(requires: str, tokens: PassTokens) -> dict[str, float]:
    """Return what a selection costs by stage, in tokens of a LoRA training step.

    With N parameters, a step of LoRA and a gradient of LoRA take 4 N FLOP a token, as frozen weights have no gradient;
    a forward pass takes 2 N, half of it. N is the same on both sides and cancels. Products of gradients and the choice
    itself are not counted: for a row they take 2 m d C FLOP, against 4 N for each of its tokens.

    Args:
        requires: What the method reads.
        tokens: Of the study.

    Raises:
        ValueError: nothing of it goes through the model that is trained.
    """
    rows = tokens.pool + tokens.validation
    costs = {
        "influence": {"warmup": tokens.warmup, "features": tokens.checkpoints * rows},
        "hidden_states": {"hidden_states": rows / 2},
        "likelihood": {"likelihood": (tokens.pool + tokens.answers) / 2},
    }
    costs["gradients"] = costs["influence"]
    if requires not in costs:
        raise ValueError(f"a selection by {requires} takes no pass of the model that is trained")
    return costs[requires]
