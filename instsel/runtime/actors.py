"""Items of work through a pool of model actors, their rows read ahead by tasks."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from instsel.io.store import Folder
from instsel.runtime.attempts import AttemptLimiter
from instsel.runtime.observability import Meter
from instsel.runtime.session import useful_processes
from instsel.study.folder import path_in_study
from instsel.study.resources import ResourcePlan

EXAMPLE = ("input_ids", "labels")

# Unlike the actors' share, so that Ray Data runs the reading as tasks of its own, ahead of the actors.
READER_CPUS = 0.1
# What is read ahead of one actor: three shards of 10^4 rows of 512 tokens, sixteen of 1,000 rows of 1,024.
AHEAD_BYTES = 128 << 20


def through_actors(
    items: Sequence[dict[str, str]],
    rows: Folder,
    actor: Any,
    arguments: tuple[Any, ...],
    resources: ResourcePlan,
    stage_of: Callable[[dict[str, str]], Folder],
    columns: Sequence[str] = EXAMPLE,
) -> Iterator[dict[str, Any]]:
    """Stream items through actors, one item a call, and yield what the actors return as it comes.

    An item whose worker died is begun again by another one, so actors must commit their work whole or not at all.

    Args:
        items: what to do; item["rows"] is the table below `rows` that it is about, with each example's id and tokens.
        rows: folder of the tables.
        actor: class whose instances take (item, ids, examples) and return a dict of plain values; an example has
            these columns.
        arguments: arguments of the class, after the number of torch threads.
        resources: how many actors there are at most, see `useful_processes`, and what each holds.
        stage_of: item -> folder of the stage that it is for; there it is noted what was begun.
        columns: of the tables, beside the id.

    Raises:
        StudyError: one item's worker died again and again.
    """
    if not items:
        return
    useful = min(len(items), _useful(resources.actors + resources.actors_to_come, items, rows))
    # A pool that the cluster has no room for as a whole would wait for ever, were it of a fixed size.
    least, most = (min(number, useful) for number in (resources.actors, resources.actors + resources.actors_to_come))
    reader: Any = _read
    reading = {"rows": rows, "columns": columns}
    results = (
        orders([{"item": json.dumps(item)} for item in items], most)
        .map_batches(
            reader,
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=READER_CPUS,
            compute=ray.data.TaskPoolStrategy(most),
            fn_kwargs=reading,
        )
        .map_batches(
            _Caller,
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=resources.cpus,
            num_gpus=resources.gpus,
            compute=ray.data.ActorPoolStrategy(min_size=least, max_size=most),
            fn_constructor_args=(
                AttemptLimiter(),
                stage_of,
                path_in_study(rows)[0],
                actor,
                (resources.threads, *arguments),
            ),
        )
    )
    yield from results.iter_rows()


def orders(items: Sequence[dict[str, Any]], actors: int) -> ray.data.Dataset:
    """Items as a dataset of one block each, on which `actors` actors are to work.

    What is read for them waits in the object store: at most `AHEAD_BYTES` an actor, and never more than the half of the
    store that Ray Data grants itself. Without that bound, tasks that read would fill this half whatever the actors do.
    """
    found = ray.data.from_items(list(items), override_num_blocks=len(items))
    limits = ray.data.ExecutionResources.for_limits(object_store_memory=actors * AHEAD_BYTES)
    found.context.execution_options.resource_limits = limits
    return found


def _useful(actors: int, items: Sequence[dict[str, str]], rows: Folder) -> int:
    """How many of so many actors the work is worth; looks at no more tables than it takes to tell."""
    known: dict[str, int] = {}
    tokens = 0
    for item in items:
        table = item["rows"]
        if table not in known:
            known[table] = pc.sum(rows.read_table(table, ["tokens"])["tokens"]).as_py() or 0
        tokens += known[table]
        if useful_processes(actors, tokens) == actors:
            break
    return useful_processes(actors, tokens)


def _read(batch: pa.Table, *, rows: Folder, columns: Sequence[str]) -> pa.Table:
    item = batch["item"][0].as_py()
    table = rows.read_table(json.loads(item)["rows"], ["id", *columns])
    return pa.table({"item": [item], **{name: _as_one(table[name]) for name in table.column_names}})


def _as_one(column: pa.ChunkedArray) -> pa.ListArray:
    """A column as one value, in its own type: made of Python's integers, tokens would be int64."""
    return pa.ListArray.from_arrays([0, len(column)], column.combine_chunks())


class _Caller:
    """Turns Ray Data's batches into the actor's plain arguments and its results back."""

    def __init__(
        self,
        starts: AttemptLimiter,
        stage_of: Callable[[dict[str, str]], Folder],
        study: str,
        actor: Any,
        arguments: tuple[Any, ...],
    ) -> None:
        self.starts, self.stage_of = starts, stage_of
        # A stage's actors are in the module that has its name.
        self.meter = Meter(study, actor.__module__.rpartition(".")[2])
        self.make = lambda: actor(*arguments)
        self.actor: Any = None

    def __call__(self, batch: pa.Table) -> pa.Table:
        return pa.Table.from_pylist([self._call(row) for row in batch.to_pylist()])

    def _call(self, row: dict[str, Any]) -> dict[str, Any]:
        item = json.loads(row["item"])
        self.starts.start(self.stage_of(item), row["item"], len(row["id"]), item["rows"])
        if self.actor is None:
            # Made here and not before: a worker that dies while it loads the model has begun the item, too.
            self.actor = self.make()
        columns = [name for name in row if name not in ("item", "id")]
        values = zip(*(row[name] for name in columns), strict=True)
        examples = [dict(zip(columns, example, strict=True)) for example in values]
        began = time.monotonic()
        result: dict[str, Any] = self.actor(item, row["id"], examples)
        self.meter.count_item(row["id"], result, time.monotonic() - began)
        return result
