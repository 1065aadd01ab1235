"""What a selection cost, as rows that could be trained on in its place."""

from instsel.selection.base import Method
from instsel.selection.cost import PassTokens, selection_cost
from instsel.study.reader import StudyReader
from instsel.study.results import FeaturesResult, WarmupResult


def spent_tokens(method: Method, reader: StudyReader) -> dict[str, float]:
    """Return what a selection took by stage, in tokens of a training step, by what the stages of the study recorded.

    Args:
        method: That selects.
        reader: The study.

    Raises:
        InputError: a stage that the method needs is not finished.
        ValueError: nothing of the selection goes through the model that is trained.
    """
    warmup, checkpoints = 0, 0
    if method.requires in ("influence", "gradients"):
        warmup = reader.result("warmup", WarmupResult).tokens
        checkpoints = len(reader.result("features", FeaturesResult).checkpoints)
    index = reader.index
    answers = int(index["answer_tokens"].to_numpy().sum()) + len(index)
    validation = sum(tokens for _, tokens in reader.validation_sizes())
    return selection_cost(
        method.requires, PassTokens(reader.prepared.pool.tokens, answers, validation, warmup, checkpoints)
    )
