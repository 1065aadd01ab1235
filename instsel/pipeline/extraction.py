"""What the stages *embed*, *represent* and *likelihood* share: one table of results for every table of rows.

An actor commits the results of a shard itself and hands back counts, so no vector travels through Ray's object store.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from instsel.console import Terminal
from instsel.errors import StudyError
from instsel.io.store import Folder
from instsel.runtime.actors import EXAMPLE, ActorPool
from instsel.runtime.errors import Shortage
from instsel.runtime.session import ResourcePlan
from instsel.study.folder import StageFolder

REJECTED_SUFFIX = ".rejected.json"
ZERO = "zero vector"
NOT_FINITE = "NaN or infinity"


def pool_items(prepare: StageFolder) -> list[dict[str, str]]:
    """Work on every shard of the pool."""
    shards = prepare.manifest()["result"]["pool"]["shards"]
    return [{"kind": "pool", "name": shard, "rows": f"pool/{shard}.parquet"} for shard in shards]


def validation_items(prepare: StageFolder) -> list[dict[str, str]]:
    """Work on the validation rows of every target."""
    targets = prepare.manifest()["result"]["targets"]
    return [{"kind": "validation", "name": name, "rows": f"targets/{name}/validation.parquet"} for name in targets]


def extract(
    stage: StageFolder,
    items: list[dict[str, str]],
    prepare: StageFolder,
    actor: Any,
    arguments: tuple[Any, ...],
    budget: tuple[str, int],
    resources: ResourcePlan,
    terminal: Terminal,
    *,
    ending: str = ".arrow",
    columns: Sequence[str] = EXAMPLE,
) -> None:
    """Run a stage: put the items whose results are missing through actors, then write the manifest.

    Args:
        stage: whose folder has KIND/NAME with this ending for a finished item.
        items: kind and name of the results, and the rows of *prepare* they are about.
        prepare: stage *prepare*.
        actor: class whose instances take (item, ids, examples), write the results of the item into the stage's folder,
            see `write_results`, and return how many `tokens` that took, their `peak_memory`, bytes, and the
            `token_budget` of its batches now.
        arguments: of the class, after the number of torch threads.
        budget: of an actor's batches to begin with: the key of the study file that says so, and tokens.
        resources: how many actors there are and what each holds.
        terminal: where progress is shown.
        ending: of the results' names; tells the format, as `Folder.write_table` has it.
        columns: of the rows, beside the id.

    Raises:
        StudyError: no row of the pool has a usable result.
    """
    stage.start()
    there = {kind: (stage.folder / kind).names() for kind in {item["kind"] for item in items}}
    missing = [item for item in items if f"{item['name']}{ending}" not in there[item["kind"]]]
    if len(missing) < len(items):
        terminal.say(f"{len(items) - len(missing)} of {len(items)} shards were there already")
    tokens = memory = 0
    out, shortage = stage.folder, Shortage(*budget, terminal)
    with terminal.bar(stage.name, len(missing), "shards") as bar:
        pool = ActorPool(stage.name, missing, prepare.folder, actor, arguments, lambda item: out, columns)
        for row in pool.run(resources):
            tokens += row["tokens"]
            memory = max(memory, row["peak_memory"])
            shortage.look(row["token_budget"])
            bar.advance(1, row["tokens"])
    # A worker that was killed may have left half a file.
    stage.folder.clean()
    aside = {kind: _rejected_rows(stage.folder / kind) for kind in there}
    if len(aside["pool"]) == prepare.manifest()["result"]["pool"]["rows"]:
        raise StudyError(f"{stage.name}: no row of the pool has a usable result, {_told(aside['pool'])}")
    reasons = {row: reason for of_kind in aside.values() for row, reason in of_kind.items()}
    if reasons:
        terminal.say(f"set aside {_told(reasons)}")
    stage.commit({"rejected": reasons}, tokens=tokens, peak_memory=memory)


def write_results(
    out: Folder, item: dict[str, str], ids: Sequence[str], table: pa.Table, reasons: Sequence[str | None], ending: str
) -> None:
    """Commit the results of an item, without the rows that there is a reason to set aside.

    Args:
        out: the stage's folder.
        item: as in `extract`.
        ids: of the rows, n of them.
        table: their n results.
        reasons: n of them, None for a row that is kept.
        ending: as in `extract`.
    """
    folder = out / item["kind"]
    aside = [{"id": row, "reason": reason} for row, reason in zip(ids, reasons, strict=True) if reason]
    if aside:
        folder.write_json(f"{item['name']}{REJECTED_SUFFIX}", aside)
    results = table.add_column(0, "id", pa.array(ids, pa.string()))
    kept = pa.array([reason is None for reason in reasons], pa.bool_())
    folder.write_table(f"{item['name']}{ending}", results.filter(kept).combine_chunks())


def write_vectors(out: Folder, item: dict[str, str], ids: Sequence[str], vectors: np.ndarray) -> None:
    """Commit vectors float32 (n, e) as a memory-mappable table: id, embedding FixedSizeList<float32, e>.

    Rows without a direction, zero or not finite, are set aside.
    """
    # In float64 the magnitudes of finite entries have a finite sum, and any other entry makes it infinite or NaN.
    sizes = np.abs(vectors).sum(axis=1, dtype=np.float64)
    reasons = [ZERO if size == 0 else None if np.isfinite(size) else NOT_FINITE for size in sizes.tolist()]
    values = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1))
    table = pa.table({"embedding": pa.FixedSizeListArray.from_arrays(values, vectors.shape[1])})
    write_results(out, item, ids, table, reasons, ".arrow")


def _rejected_rows(folder: Folder) -> dict[str, str]:
    names = [name for name in folder.names() if name.endswith(REJECTED_SUFFIX)]
    return {row["id"]: row["reason"] for name in names for row in folder.read_json(name)}


def _told(reasons: dict[str, str]) -> str:
    counts = Counter(reasons.values()).most_common()
    return ", ".join(f"{count} rows with {reason}" for reason, count in counts)
