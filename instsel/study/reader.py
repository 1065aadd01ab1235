"""Reading a study folder: what its stages left, each part read once and only when needed."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import JsonValue

from instsel.arrays import list_rows
from instsel.data.chat import prompt_text
from instsel.errors import InputError
from instsel.gradients.features import GradientShards, validation_columns
from instsel.io.matrix import Matrix, stack
from instsel.io.store import Folder
from instsel.selection.base import AttributionSpec, Form
from instsel.strict import NAME
from instsel.study.folder import GRAPH, MANIFEST, Manifest, ResultT, parse_result, read_manifest
from instsel.study.results import InteractionResult, PrepareResult

CHECKPOINT = re.compile(r"epoch-[0-9]+")
SHARD = re.compile(r"[0-9]+-[0-9]+")


class StudyReader:
    """Reads a study folder, without the user's own files; what it gives is of pool rows, named by their ids."""

    def __init__(self, study: Folder) -> None:
        self.study = study
        self._manifests: dict[str, Manifest] = {}
        self._kept: dict[AttributionSpec, Matrix] = {}

    def has(self, stage: str) -> bool:
        """Return whether a stage is finished."""
        return stage in self._manifests or (self.study / stage).exists(MANIFEST)

    def forget_manifests(self) -> None:
        """Read manifests again when they are asked for, as a stage has run since."""
        self._manifests.clear()

    def stages(self) -> dict[str, dict[str, JsonValue]]:
        """Return the settings of every stage that the study can have by the study file as it was last run, in order.

        Raises:
            InputError: the study has not been run.
        """
        if not self.study.exists(GRAPH):
            raise InputError(f"{self.study} has no {GRAPH}; run the study")
        return {stage["name"]: stage["settings"] for stage in self.study.read_json(GRAPH)}

    def result(self, stage: str, kind: type[ResultT]) -> ResultT:
        """Return the result of a finished stage as its type.

        Raises:
            InputError: see `manifest`.
        """
        return parse_result(kind, self.manifest(stage), f"{self.study}/{stage}")

    def manifest(self, stage: str) -> Manifest:
        """Return the manifest of a finished stage, read once.

        Raises:
            InputError: the stage is not finished, its manifest is damaged, or what it was made from has changed since.
        """
        if stage in self._manifests:
            return self._manifests[stage]
        if not self.has(stage):
            raise InputError(f"{self.study} has no finished stage {stage!r}; run the study with a method that reads it")
        manifest = read_manifest(self.study / stage)
        for parent, fingerprint in manifest["parents"].items():
            if not self.has(parent) or self.manifest(parent)["fingerprint"] != fingerprint:
                raise InputError(f"{self.study}/{stage} is not of the {parent} that is there now; run the study again")
        self._manifests[stage] = manifest
        return manifest

    @cached_property
    def prepared(self) -> PrepareResult:
        """The result of stage *prepare*: pool and targets."""
        result = self.result("prepare", PrepareResult)
        self._check_names("target", NAME, result.targets)
        return result

    @cached_property
    def index(self) -> pa.Table:
        """One line a row of the pool: id, source, task, tokens, answer_tokens, shard."""
        self.manifest("prepare")
        table = (self.study / "prepare").read_table("index.parquet")
        self.check_shards(table["shard"].unique().to_pylist())
        return table

    @cached_property
    def ids(self) -> pa.StringArray:
        """Ids of the pool's rows, in the order of `index`."""
        return self.index["id"].combine_chunks()

    def positions(self, ids: Sequence[str] | pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
        """Return the positions in `index` of rows, int64 (n,).

        Raises:
            InputError: a row is not in the pool.
        """
        wanted = ids if isinstance(ids, pa.Array | pa.ChunkedArray) else pa.array(ids, pa.string())
        if len(wanted) == len(self.ids) and isinstance(wanted, pa.Array) and wanted.equals(self.ids):
            return np.arange(len(wanted))
        positions = pc.index_in(wanted, value_set=self.ids)
        if positions.null_count:
            missing = wanted.filter(pc.is_null(positions))
            raise InputError(
                f"{self.study} has no pool row {missing[0].as_py()!r} ({len(missing)} of {len(wanted)} rows that were "
                "looked for); run the study again"
            )
        return np.asarray(positions.to_numpy(), dtype=np.int64)

    @cached_property
    def categories(self) -> pa.DictionaryArray:
        """Category of each row of `index`, as codes.

        Raises:
            InputError: the study has none.
        """
        self.manifest("categorize")
        table = (self.study / "categorize").read_table("categories.parquet", ["id", "category"])
        rows = pc.index_in(self.ids, value_set=table["id"].combine_chunks())
        return table["category"].combine_chunks().dictionary_encode().take(rows)

    def interaction(self, estimator: str) -> InteractionResult:
        """Return the result of stage *interaction* by an estimator.

        Raises:
            InputError: the study has no such result.
        """
        return self.result(f"interaction/{estimator}", InteractionResult)

    @property
    def shards(self) -> list[str]:
        """Names of the pool's shards, in order."""
        names = self.prepared.pool.shards
        self.check_shards(names)
        return names

    def check_shards(self, names: Sequence[str]) -> None:
        """Reject names that lead out of the folder, which somebody else may have written."""
        self._check_names("shard", SHARD, names)

    def _check_names(self, what: str, pattern: re.Pattern[str], names: Iterable[str]) -> None:
        for name in names:
            if not pattern.fullmatch(name):
                raise InputError(f"{self.study} names a {what} {name!r}, which no study has; do not use this folder")

    @cached_property
    def gradients(self) -> GradientShards:
        """The gradient features."""
        provenance = self.manifest("features")["result"]["provenance"]
        self._check_names("checkpoint", CHECKPOINT, provenance)
        return GradientShards(self.study / "features", provenance)

    @cached_property
    def contrast_gradients(self) -> GradientShards:
        """The gradients of validation rows towards the right answer against others."""
        provenance = self.manifest("contrast")["result"]["provenance"]
        self._check_names("checkpoint", CHECKPOINT, provenance)
        return GradientShards(self.study / "contrast", provenance)

    @cached_property
    def weights(self) -> list[float]:
        """Mean learning rate of each checkpoint."""
        checkpoints = self.manifest("features")["result"]["checkpoints"]
        return [checkpoints[name]["learning_rate"] for name in self.gradients.provenance]

    def columns(self, targets: Sequence[str] | None = None) -> pa.Table:
        """Return the validation rows that have a gradient: id, target, subtask."""
        rejected = self.manifest("features")["result"]["rejected"]
        return validation_columns(self.study / "prepare", self._subtasks, rejected, targets)

    def validation_gradients(
        self, form: Form, targets: Sequence[str] | None = None
    ) -> tuple[list[np.ndarray], pa.Table]:
        """Return what a form compares the pool with: gradients float32 (m, d) a checkpoint, as they are, and `columns`.

        Raises:
            InputError: the study has no such gradients.
        """
        if form != "contrast":
            columns = self.columns(targets)
            return self.gradients.validation(columns), columns
        rejected = self.manifest("contrast")["result"]["rejected"]
        columns = validation_columns(self.study / "prepare", self._subtasks, rejected, targets)
        return self.contrast_gradients.validation(columns), columns

    def influence(self, influence: AttributionSpec) -> Matrix | None:
        """Return the attribution matrix as its stage stored it; None if that has not run."""
        name = f"attribution/{influence.name}"
        if not self.has(name):
            return None
        shards, folder = self.manifest(name)["result"]["shards"], self.study / name
        return self._stacked(folder / "blocks", shards, "scores", folder.read_table("columns.parquet"))

    def keep(self, influence: AttributionSpec, make: Callable[[], Matrix]) -> Matrix:
        """Return the matrix of an attribution spec, computed once; the last two are kept, as each may be gigabytes."""
        if influence not in self._kept:
            self._kept = {**dict(list(self._kept.items())[-1:]), influence: make()}
        return self._kept[influence]

    def embeddings(self) -> Matrix:
        """Return the prompt embeddings, float32 (n, e)."""
        self.manifest("embed")
        return self._stacked(self.study / "embed" / "pool", self.shards, "embedding")

    def validation_embeddings(self) -> tuple[np.ndarray, list[str]]:
        """Return the prompt embeddings of the validation rows, float32 (m, e), and their targets."""
        columns, rows = self._validation_vectors("embed", None)
        return rows, columns["target"].to_pylist()

    def representations(self, targets: Sequence[str] | None = None) -> tuple[Matrix, np.ndarray]:
        """Return hidden states of the pool, float32 (n, h), and of the validation rows, its columns, (m, h)."""
        columns, rows = self._validation_vectors("hidden_states", targets)
        pool = self._stacked(self.study / "hidden_states" / "pool", self.shards, "embedding", columns)
        return pool, rows

    def _validation_vectors(self, stage: str, targets: Sequence[str] | None) -> tuple[pa.Table, np.ndarray]:
        rejected = self.manifest(stage)["result"]["rejected"]
        columns = validation_columns(self.study / "prepare", self._subtasks, rejected, targets)
        rows: dict[str, np.ndarray] = {}
        for target in dict.fromkeys(columns["target"].to_pylist()):
            table = (self.study / stage / "validation").read_table(f"{target}.arrow")
            rows |= dict(zip(table["id"].to_pylist(), list_rows(table["embedding"]), strict=True))
        return columns, np.stack([rows[name] for name in columns["id"].to_pylist()])

    def likelihoods(self) -> pa.Table:
        """Return the base model's losses of each row: id, loss, loss_alone."""
        self.manifest("likelihood")
        folder = self.study / "likelihood" / "pool"
        return pa.concat_tables([folder.read_table(f"{shard}.parquet") for shard in self.shards])

    def prompts(self) -> Iterator[str]:
        """Yield the prompts of the pool's rows in the order of `index`, with one shard in memory at a time."""
        for shard in self.shards:
            table = (self.study / "prepare" / "pool").read_table(f"{shard}.parquet", ["messages"])
            for messages in table["messages"].to_pylist():
                yield prompt_text(messages)

    def validation_prompts(self, targets: Sequence[str] | None = None) -> tuple[pa.Table, list[str]]:
        """Return the validation rows, a table of id, target and subtask, and the prompt of each."""
        folder = self.study / "prepare"
        columns = validation_columns(folder, self._subtasks, {}, targets)
        prompts: dict[str, str] = {}
        for target in dict.fromkeys(columns["target"].to_pylist()):
            table = (folder / "targets" / target).read_table("validation.parquet", ["id", "messages"])
            texts = map(prompt_text, table["messages"].to_pylist())
            prompts |= dict(zip(table["id"].to_pylist(), texts, strict=True))
        return columns, [prompts[row] for row in columns["id"].to_pylist()]

    def validation_sizes(self) -> list[tuple[str, int]]:
        """Return the id and the tokens of every validation row, target by target."""
        sizes: list[tuple[str, int]] = []
        for target in self.prepared.targets:
            table = (self.study / "prepare/targets" / target).read_table("validation.parquet", ["id", "tokens"])
            sizes += zip(table["id"].to_pylist(), table["tokens"].to_pylist(), strict=True)
        return sizes

    @property
    def _subtasks(self) -> Mapping[str, str | None]:
        targets: Any = self.manifest("prepare")["settings"]["targets"]
        self._check_names("target", NAME, targets)
        return {name: targets[name]["subtask"] for name in targets}

    def _stacked(self, folder: Folder, shards: Sequence[str], column: str, columns: pa.Table | None = None) -> Matrix:
        self.check_shards(shards)
        tables = [folder.read_table(f"{shard}.arrow") for shard in shards]
        ids = [row for table in tables for row in table["id"].to_pylist()]
        blocks = (list_rows(table[column]) for table in tables)
        width = tables[0].schema.field(column).type.list_size
        return Matrix(ids, stack(blocks, len(ids), width), columns)
