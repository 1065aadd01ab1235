"""Items of work through a pool of model actors, their rows read ahead by tasks."""

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import ray
import ray.data

from instsel.errors import StudyError
from instsel.stages.metrics import Meter
from instsel.stages.session import Allotment
from instsel.storage import Folder
from instsel.study import place_in_study

EXAMPLE = ("input_ids", "labels")

# Unlike the actors' share, so that Ray Data runs the reading as tasks of its own, ahead of the actors.
READER_CPUS = 0.1
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
    work = [{"item": json.dumps(item)} for item in items]
    starts = _Starts.remote()  # type: ignore[attr-defined]
    reader: Any = _read
    reading = {"rows": rows, "columns": columns}
    results = (
        ray.data.from_items(work, override_num_blocks=len(work))
        .map_batches(reader, batch_size=1, batch_format="pyarrow", num_cpus=READER_CPUS, fn_kwargs=reading)
        .map_batches(
            _Caller,
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=allot.cpus,
            num_gpus=allot.gpus,
            compute=ray.data.ActorPoolStrategy(size=min(allot.actors, len(work))),
            fn_constructor_args=(starts, MOST_STARTS, place_in_study(rows)[0], actor, (allot.threads, *arguments)),
        )
    )
    yield from results.iter_rows()


def _read(batch: pa.Table, *, rows: Folder, columns: Sequence[str]) -> pa.Table:
    item = batch["item"][0].as_py()
    table = rows.read_table(json.loads(item)["rows"], ["id", *columns])
    return pa.table({"item": [item], **{name: pa.array([table[name].to_pylist()]) for name in table.column_names}})


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

    def __init__(self, starts: Any, most_starts: int, study: str, actor: Any, arguments: tuple[Any, ...]) -> None:
        self.starts, self.most_starts = starts, most_starts
        # A stage's actors are in the module that has its name.
        self.meter = Meter(study, actor.__module__.rpartition(".")[2])
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
        began = time.monotonic()
        result: dict[str, Any] = self.actor(item, row["id"], examples)
        self.meter.count_item(row["id"], result, time.monotonic() - began)
        return result
