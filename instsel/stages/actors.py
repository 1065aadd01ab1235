"""Items of work through a pool of model actors, their rows read ahead by tasks."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import ray.data

from instsel.stages.session import Allotment
from instsel.storage import Folder

# Unlike the actors' share, so that Ray Data runs the reading as tasks of its own, ahead of the actors.
READER_CPUS = 0.1


def through_actors(
    items: Sequence[dict[str, str]], rows: Folder, actor: Any, arguments: tuple[Any, ...], allot: Allotment
) -> Iterator[dict[str, Any]]:
    """Stream items through actors, one item a call, and yield what the actors return as it comes.

    Args:
        items: what to do; item["rows"] is the table of examples below `rows` that it is about.
        rows: folder of the tables.
        actor: class whose instances take (item, ids, examples) and return a dict of plain values.
        arguments: arguments of the class, after the number of torch threads.
        allot: how many actors there are and what each holds.
    """
    if not items:
        return
    work = [{"item": json.dumps(item)} for item in items]
    reader: Any = _read
    results = (
        ray.data.from_items(work, override_num_blocks=len(work))
        .map_batches(reader, batch_size=1, batch_format="pyarrow", num_cpus=READER_CPUS, fn_kwargs={"rows": rows})
        .map_batches(
            _Caller,
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=allot.cpus,
            num_gpus=allot.gpus,
            compute=ray.data.ActorPoolStrategy(size=min(allot.actors, len(work))),
            fn_constructor_args=(actor, (allot.threads, *arguments)),
        )
    )
    yield from results.iter_rows()


def _read(batch: pa.Table, *, rows: Folder) -> pa.Table:
    item = batch["item"][0].as_py()
    table = rows.read_table(json.loads(item)["rows"], ["id", "input_ids", "labels"])
    return pa.table({"item": [item], **{name: pa.array([table[name].to_pylist()]) for name in table.column_names}})


class _Caller:
    """Turns Ray Data's batches into the actor's plain arguments and its results back."""

    def __init__(self, actor: Any, arguments: tuple[Any, ...]) -> None:
        self.actor = actor(*arguments)

    def __call__(self, batch: pa.Table) -> pa.Table:
        results = []
        for row in batch.to_pylist():
            pairs = zip(row["input_ids"], row["labels"], strict=True)
            examples = [{"input_ids": ids, "labels": labels} for ids, labels in pairs]
            results.append(self.actor(json.loads(row["item"]), row["id"], examples))
        return pa.Table.from_pylist(results)
