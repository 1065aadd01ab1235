"""Items of work through a pool of model actors, their rows read ahead by tasks."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import ray
import ray.data

from instsel.errors import StudyError
from instsel.stages.session import Allotment
from instsel.storage import Folder

EXAMPLE = ("input_ids", "labels")

# Unlike the actors' share, so that Ray Data runs the reading as tasks of its own, ahead of the actors.
READER_CPUS = 0.1
# What is read ahead of one actor: three shards of 10^4 rows of 512 tokens, sixteen of 1,000 rows of 1,024.
AHEAD_BYTES = 128 << 20
# Ray Data starts a worker that died anew, and its item with it, without end.
MOST_STARTS = 4


def through_actors(
    items: Sequence[dict[str, str]],
    rows: Folder,
    actor: Any,
    arguments: tuple[Any, ...],
    allot: Allotment,
    columns: Sequence[str] = EXAMPLE,
) -> Iterator[dict[str, Any]]:
    """Stream items through actors, one item a call, and yield what the actors return as it comes.

    An item whose worker died is begun again by another one, so actors must commit their work whole or not at all.

    Args:
        items: what to do; item["rows"] is the table of examples below `rows` that it is about.
        rows: folder of the tables.
        actor: class whose instances take (item, ids, examples) and return a dict of plain values; an example has
            these columns.
        arguments: arguments of the class, after the number of torch threads.
        allot: how many actors there are and what each holds.
        columns: of the tables, beside the id.

    Raises:
        StudyError: one item's worker died `MOST_STARTS` times.
    """
    if not items:
        return
    actors = min(allot.actors, len(items))
    starts = _Starts.remote()  # type: ignore[attr-defined]
    reader: Any = _read
    reading = {"rows": rows, "columns": columns}
    results = (
        orders([{"item": json.dumps(item)} for item in items], actors)
        .map_batches(reader, batch_size=1, batch_format="pyarrow", num_cpus=READER_CPUS, fn_kwargs=reading)
        .map_batches(
            _Caller,
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=allot.cpus,
            num_gpus=allot.gpus,
            compute=ray.data.ActorPoolStrategy(size=actors),
            fn_constructor_args=(starts, MOST_STARTS, actor, (allot.threads, *arguments)),
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


def _read(batch: pa.Table, *, rows: Folder, columns: Sequence[str]) -> pa.Table:
    item = batch["item"][0].as_py()
    table = rows.read_table(json.loads(item)["rows"], ["id", *columns])
    return pa.table({"item": [item], **{name: _as_one(table[name]) for name in table.column_names}})


def _as_one(column: pa.ChunkedArray) -> pa.ListArray:
    """A column as one value, in its own type: made of Python's integers, tokens would be int64."""
    return pa.ListArray.from_arrays([0, len(column)], column.combine_chunks())


@ray.remote(num_cpus=0)
class _Starts:
    """Counts how often each item was begun."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def count(self, item: str) -> int:
        self._counts[item] += 1
        return self._counts[item]


class _Caller:
    """Turns Ray Data's batches into the actor's plain arguments and its results back."""

    def __init__(self, starts: Any, most_starts: int, actor: Any, arguments: tuple[Any, ...]) -> None:
        self.starts, self.most_starts = starts, most_starts
        self.make = lambda: actor(*arguments)
        self.actor: Any = None

    def __call__(self, batch: pa.Table) -> pa.Table:
        return pa.Table.from_pylist([self._call(row) for row in batch.to_pylist()])

    def _call(self, row: dict[str, Any]) -> dict[str, Any]:
        item = json.loads(row["item"])
        if ray.get(self.starts.count.remote(row["item"])) > self.most_starts:
            raise StudyError(
                f"{item['rows']}: {self.most_starts} workers died at these rows, one after the other; if memory is "
                "short, lower token_budget or resources.actors, and run again"
            )
        if self.actor is None:
            # Made here and not before: a worker that dies while it loads the model has begun the item, too.
            self.actor = self.make()
        columns = [name for name in row if name not in ("item", "id")]
        values = zip(*(row[name] for name in columns), strict=True)
        examples = [dict(zip(columns, example, strict=True)) for example in values]
        result: dict[str, Any] = self.actor(item, row["id"], examples)
        return result
