"""Stage *attribution*: features become the n x m matrix of influences, a block of pool rows at a time."""

from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data

from instsel.attribution import score_block, unit_rows
from instsel.config import StudyConfig
from instsel.errors import StudyError
from instsel.gradients.store import read_features, read_pins, require_pins
from instsel.progress import Terminal
from instsel.stages.memory import peak_memory
from instsel.stages.pins import Pins, feature_pins, settle_pins
from instsel.storage import Folder
from instsel.study import Stage

COLUMNS = "columns.parquet"


def run(study: StudyConfig, stage: Stage, prepare: Stage, warmup: Stage, features: Stage, terminal: Terminal) -> None:
    """Write one block of scores a shard, and what each column is."""
    stage.begin()
    # Of the warmup as it is now: what the features say of themselves may be of one that was done again since.
    pins = feature_pins(study, features, warmup)
    settle_pins(stage, pins, terminal)
    rates = warmup.manifest()["result"]["checkpoints"]
    weights = [rates[name]["learning_rate"] for name in pins]
    columns = _columns(study, prepare.folder, features, stage.folder)
    shards = prepare.manifest()["result"]["pool"]["shards"]
    missing = [shard for shard in shards if not (stage.folder / "blocks").exists(f"{shard}.arrow")]
    scored = ray.data.from_items([{"shard": shard} for shard in missing]).map_batches(
        _Scorer,
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=0.5,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=_scorers(len(missing))),
        fn_constructor_args=(features.folder, pins, list(study.targets), weights, stage.folder),
    )
    memory = 0
    with terminal.bar("attribution", len(missing), "shards") as bar:
        for row in scored.iter_rows() if missing else ():
            bar.advance(1)
            memory = max(memory, row["peak_memory"])
    rows = sum(len((stage.folder / "blocks").read_table(f"{shard}.arrow", ["id"])) for shard in shards)
    terminal.say(f"{rows} pool rows x {len(columns)} validation rows, {len(pins)} checkpoints")
    stage.commit({"rows": rows, "columns": len(columns), "weights": weights, "shards": shards}, peak_memory=memory)


def load_matrix(stage: Stage) -> tuple[list[str], np.ndarray, pa.Table]:
    """Ids of the pool rows, the matrix float32 (n, m), and the table of its columns (id, target, subtask)."""
    columns = stage.folder.read_table(COLUMNS)
    ids: list[str] = []
    blocks = [np.empty((0, len(columns)), dtype=np.float32)]
    for shard in stage.manifest()["result"]["shards"]:
        table = (stage.folder / "blocks").read_table(f"{shard}.arrow")
        ids += table["id"].to_pylist()
        blocks += [chunk.flatten().to_numpy().reshape(-1, len(columns)) for chunk in table["scores"].chunks]
    return ids, np.concatenate(blocks), columns


def _columns(study: StudyConfig, prepared: Folder, features: Stage, out: Folder) -> pa.Table:
    aside = features.manifest()["result"]["set_aside"]
    found: list[dict[str, Any]] = []
    for name, target in study.targets.items():
        rows = (prepared / "targets" / name).read_table("validation.parquet", ["id", "task"]).to_pylist()
        kept = [row for row in rows if row["id"] not in aside]
        if not kept:
            raise StudyError(f"targets.{name}: no validation row has a usable gradient; lower the warmup learning rate")
        for row in kept:
            subtask = f"{name}/{row['task']}" if target.subtask and row["task"] else name
            found.append({"id": row["id"], "target": name, "subtask": subtask})
    table = pa.Table.from_pylist(found)
    out.write_table(COLUMNS, table)
    return table


def _scorers(shards: int) -> int:
    return max(1, min(shards, int(ray.cluster_resources().get("CPU", 1))))


class _Scorer:
    """Holds the validation features of every checkpoint; scores shards of the pool against them."""

    def __init__(self, features: Folder, pins: Pins, targets: list[str], weights: list[float], out: Folder) -> None:
        self.features, self.pins, self.weights, self.out = features, pins, weights, out / "blocks"
        self.targets, self.columns = targets, out.read_table(COLUMNS)["id"].to_pylist()

    def __call__(self, batch: pa.Table) -> pa.Table:
        for shard in batch["shard"].to_pylist():
            self._shard(shard)
        return pa.table({"peak_memory": [peak_memory()]})

    def _shard(self, shard: str) -> None:
        found = [self._read(name, "pool", shard) for name in self.pins]
        common = set(found[0][0]).intersection(*(ids for ids, _ in found[1:]))
        places = [[place for place, row in enumerate(ids) if row in common] for ids, _ in found]
        blocks = [rows[own] for (_, rows), own in zip(found, places, strict=True)]
        scores = score_block(blocks, self._validation, self.weights)
        ids = [found[0][0][place] for place in places[0]]
        width = scores.shape[1]
        column = pa.FixedSizeListArray.from_arrays(pa.array(scores.reshape(-1)), width)
        self.out.write_table(f"{shard}.arrow", pa.table({"id": pa.array(ids, pa.string()), "scores": column}))

    @cached_property
    def _validation(self) -> list[np.ndarray]:
        """Unit rows of every checkpoint in the order of the columns; not in __init__, whose errors Ray hides."""
        return [unit_rows(self._validation_at(checkpoint)) for checkpoint in self.pins]

    def _validation_at(self, checkpoint: str) -> np.ndarray:
        rows: dict[str, np.ndarray] = {}
        for target in self.targets:
            ids, unit = self._read(checkpoint, "validation", target)
            rows |= dict(zip(ids, unit, strict=True))
        return np.stack([rows[name] for name in self.columns])

    def _read(self, checkpoint: str, kind: str, name: str) -> tuple[list[str], np.ndarray]:
        """Ids and features of a shard of these pins, any other is refused."""
        table = (self.features / checkpoint / kind).read_table(f"{name}.arrow")
        try:
            require_pins(read_pins(table.schema), self.pins[checkpoint][kind])
        except ValueError as error:
            raise StudyError(
                f"features/{checkpoint}/{kind}/{name}.arrow is not of this study: {error}; "
                "delete the study's features folder and run again"
            ) from error
        return read_features(table)
