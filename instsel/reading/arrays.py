"""The vectors that a study keeps: influence, gradients, embeddings."""

from collections.abc import Sequence
from functools import partial
from typing import Literal

from instsel.choice.inputs import Inputs
from instsel.choice.ways import figures_influence, influences_of
from instsel.config import StudyConfig
from instsel.errors import InputError
from instsel.methods import Influence
from instsel.reading.vectors import Block, Vectors
from instsel.storage import Folder


class StudyArrays:
    """A study's folder, for its vectors.

    Attributes:
        place: of the folder.
        config: the study file as it was last run, with every default.
    """

    def __init__(self, place: str, config: StudyConfig, inputs: Inputs) -> None:
        """Use `instsel.open_study`."""
        self.place, self.config, self._inputs = place, config, inputs

    @property
    def targets(self) -> list[str]:
        """Names of the targets."""
        return sorted(self.config.targets)

    @property
    def influences(self) -> list[str]:
        """Names of the attribution matrices that are stored."""
        return [name for name in influences_of(self.config) if self._inputs.has(f"attribution/{name}")]

    def attribution(self, name: str | None = None) -> Vectors:
        """Influence of pool rows on validation rows, float32, a vector a pool row; `columns` says on whom.

        Args:
            name: of `influences`; by default that which the report's figures are by.
        """
        chosen = name or self._way.name
        if name is not None:
            known("attribution", name, list(influences_of(self.config)))
        shards: list[str] = self._inputs.manifest(f"attribution/{chosen}")["result"]["shards"]
        self._inputs.check_shards(shards)
        folder = self._inputs.study / "attribution" / chosen
        read = partial(_column, folder / "blocks", "scores")
        return Vectors(shards, read, folder.read_table("columns.parquet"))

    @property
    def checkpoints(self) -> list[str]:
        """Checkpoints of the warmup that gradients were taken at, the earliest first."""
        # Names sort as text in a manifest: epoch-10 stands before epoch-2.
        return sorted(self._inputs.gradients.pins, key=lambda name: int(name.removeprefix("epoch-")))

    def features(self, checkpoint: str | None = None, kind: Literal["pool", "validation"] = "pool") -> Vectors:
        """Gradient sketches at a checkpoint, by default the last: unit rows and their norms, float16 or int8.

        Args:
            checkpoint: of `checkpoints`.
            kind: of the pool (blocks are shards), or of validation rows (blocks are targets).
        """
        gradients = self._inputs.gradients
        chosen = checkpoint or self.checkpoints[-1]
        known("checkpoint", chosen, self.checkpoints)
        known("kind", kind, ["pool", "validation"])
        parts = self._inputs.shards if kind == "pool" else self.targets
        return Vectors(parts, lambda part: Block.of_features(gradients.table(chosen, kind, part)))

    @property
    def embeddings(self) -> Vectors:
        """Prompt embeddings of the pool by the encoder, float32."""
        return self._vectors("embed")

    @property
    def hidden_states(self) -> Vectors:
        """Weighted mean hidden states of the pool by the model, float32."""
        return self._vectors("represent")

    @property
    def _way(self) -> Influence:
        """The influence by which it is said what selections serve."""
        part = self.config.selection
        return figures_influence(self.config) or Influence.of(part.attribution, part.damping)

    def _vectors(self, stage: str) -> Vectors:
        self._inputs.manifest(stage)
        return Vectors(self._inputs.shards, partial(_column, self._inputs.study / stage / "pool", "embedding"))


def known(what: str, name: str, names: Sequence[str]) -> None:
    """Refuse a name that is none of those there are.

    Raises:
        InputError: it is none.
    """
    if name not in names:
        raise InputError(f"there is no {what} {name!r}; there are {', '.join(names) or 'none'}")


def _column(folder: Folder, column: str, part: str) -> Block:
    return Block.of_column(folder.read_table(f"{part}.arrow"), column)
