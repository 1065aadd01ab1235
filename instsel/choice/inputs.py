"""What the stages of a study left, read once and only when it is asked for."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from instsel.choice.matrices import Matrix, stack, vectors
from instsel.errors import InputError
from instsel.gradients.shards import GradientShards, validation_columns
from instsel.methods import Influence
from instsel.storage import Folder
from instsel.study import MANIFEST


class Inputs:
    """Reads a study folder, without the user's own files; what it gives is of pool rows, named by their ids."""

    def __init__(self, study: Folder) -> None:
        self.study = study
        self._kept: dict[Influence, Matrix] = {}

    def has(self, stage: str) -> bool:
        """Whether a stage is finished."""
        return (self.study / stage).exists(MANIFEST)

    def manifest(self, stage: str) -> dict[str, Any]:
        """What a finished stage says of itself.

        Raises:
            InputError: the stage is not finished, or what it was made from has changed since.
        """
        if not self.has(stage):
            raise InputError(f"{self.study} has no finished stage {stage!r}; run the study with a method that reads it")
        manifest: dict[str, Any] = (self.study / stage).read_json(MANIFEST)
        for parent, fingerprint in manifest["parents"].items():
            if not self.has(parent) or self.manifest(parent)["fingerprint"] != fingerprint:
                raise InputError(f"{self.study}/{stage} is not of the {parent} that is there now; run the study again")
        return manifest

    @cached_property
    def prepared(self) -> dict[str, Any]:
        """The result of stage *prepare*: pool and targets."""
        result: dict[str, Any] = self.manifest("prepare")["result"]
        return result

    @cached_property
    def index(self) -> pa.Table:
        """One line a row of the pool: id, source, task, tokens, answer_tokens, shard."""
        self.manifest("prepare")
        return (self.study / "prepare").read_table("index.parquet")

    @property
    def shards(self) -> list[str]:
        """Names of the pool's shards, in order."""
        names: list[str] = self.prepared["pool"]["shards"]
        return names

    @cached_property
    def gradients(self) -> GradientShards:
        """The gradient features."""
        return GradientShards(self.study / "features", self.manifest("features")["result"]["pins"])

    @cached_property
    def weights(self) -> list[float]:
        """Mean learning rate of each checkpoint."""
        checkpoints = self.manifest("features")["result"]["checkpoints"]
        return [checkpoints[name]["learning_rate"] for name in self.gradients.pins]

    def columns(self, targets: Sequence[str] | None = None) -> pa.Table:
        """Validation rows that have a gradient: id, target, subtask."""
        set_aside = self.manifest("features")["result"]["set_aside"]
        return validation_columns(self.study / "prepare", self._subtasks, set_aside, targets)

    def influence(self, influence: Influence) -> Matrix | None:
        """The attribution matrix as its stage stored it; None if that has not run."""
        name = f"attribution/{influence.name}"
        if not self.has(name):
            return None
        shards, folder = self.manifest(name)["result"]["shards"], self.study / name
        return self._stacked(folder / "blocks", shards, "scores", folder.read_table("columns.parquet"))

    def keep(self, influence: Influence, make: Callable[[], Matrix]) -> Matrix:
        """The matrix of an influence, made once; the last two are kept, as each may be gigabytes."""
        if influence not in self._kept:
            self._kept = {**dict(list(self._kept.items())[-1:]), influence: make()}
        return self._kept[influence]

    def embeddings(self) -> Matrix:
        """Prompt embeddings, float32 (n, e)."""
        self.manifest("embed")
        return self._stacked(self.study / "embed" / "pool", self.shards, "embedding")

    def representations(self, targets: Sequence[str] | None = None) -> tuple[Matrix, np.ndarray]:
        """Hidden states of the pool, float32 (n, h), and of the validation rows that are its columns, (m, h)."""
        set_aside = self.manifest("represent")["result"]["set_aside"]
        columns = validation_columns(self.study / "prepare", self._subtasks, set_aside, targets)
        rows: dict[str, np.ndarray] = {}
        for target in dict.fromkeys(columns["target"].to_pylist()):
            table = (self.study / "represent" / "validation").read_table(f"{target}.arrow")
            rows |= dict(zip(table["id"].to_pylist(), vectors(table, "embedding"), strict=True))
        pool = self._stacked(self.study / "represent" / "pool", self.shards, "embedding", columns)
        return pool, np.stack([rows[name] for name in columns["id"].to_pylist()])

    def likelihoods(self) -> pa.Table:
        """The base model's losses of each row: id, loss, loss_alone."""
        self.manifest("likelihood")
        folder = self.study / "likelihood" / "pool"
        return pa.concat_tables([folder.read_table(f"{shard}.parquet") for shard in self.shards])

    @property
    def _subtasks(self) -> Mapping[str, str | None]:
        targets = self.manifest("prepare")["config"]["targets"]
        return {name: targets[name]["subtask"] for name in targets}

    def _stacked(self, folder: Folder, shards: Sequence[str], column: str, columns: pa.Table | None = None) -> Matrix:
        tables = [folder.read_table(f"{shard}.arrow") for shard in shards]
        ids = [row for table in tables for row in table["id"].to_pylist()]
        blocks = (vectors(table, column) for table in tables)
        width = tables[0].schema.field(column).type.list_size
        return Matrix(ids, stack(blocks, len(ids), width), columns)
