"""A pool of model actors that work through items, and rows read ahead by tasks."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from instsel.io.store import Folder
from instsel.runtime.attempts import AttemptLimiter
from instsel.runtime.observability import Meter
from instsel.runtime.session import useful_processes
from instsel.runtime.watchdog import DataWatch
from instsel.study.folder import path_in_study
from instsel.study.resources import READER_CPUS as READER_CPUS
from instsel.study.resources import ResourcePlan

EXAMPLE = ("input_ids", "labels")

# What is read ahead of an actor: three shards of 10^4 rows of 512 tokens, sixteen of 1,000 rows of 1,024.
AHEAD_BYTES = 128 << 20

Item = dict[str, str]
"""A piece of work; `item["rows"]` names the table that it is about, and the other keys are the stage's."""

ItemResultT = TypeVar("ItemResultT", bound=Mapping[str, object])
ItemResultT_co = TypeVar("ItemResultT_co", bound=Mapping[str, object], covariant=True)


class ModelActor(Protocol[ItemResultT_co]):
    """Works on an item at a time; loads its model once, when it is constructed."""

    def __call__(self, item: Item, ids: list[str], examples: list[Any], /) -> ItemResultT_co:
        """Return plain values; `tokens` and `rejected`, where they are among them, are counted as metrics."""


@dataclass(frozen=True)
class ActorPool(Generic[ItemResultT]):
    """Items of a stage, and the actors that work through them.

    An item whose worker died is retried by another worker, so actors must commit their work whole or not at all.

    Attributes:
        stage: name of the stage in the metrics.
        items: the work; item["rows"] is the table below `rows` that it is about, with each example's id and tokens.
        rows: folder of the tables.
        actor: class whose instances take (item, ids, examples) and return plain values, a type of the stage's.
        arguments: arguments of the class, after the number of torch threads.
        folder_of: item -> folder of the stage that it is for, where the attempts at it are recorded.
        columns: columns of the tables that an example has, beside the id.
    """

    stage: str
    items: Sequence[Item]
    rows: Folder
    actor: Callable[..., ModelActor[ItemResultT]]
    arguments: tuple[Any, ...]
    folder_of: Callable[[Item], Folder]
    columns: Sequence[str] = EXAMPLE

    def run(self, resources: ResourcePlan) -> Iterator[ItemResultT]:
        """Stream the items through actors, an item a call, and yield the results in the order in which they come.

        Args:
            resources: how many actors there are at most, see `useful_processes`, and what each holds.

        Raises:
            StudyError: every worker that took up a certain item died.
        """
        if not self.items:
            return
        limit = min(len(self.items), self.useful_actors(resources.actors + resources.actors_to_come))
        # A pool of fixed size would wait for ever if the cluster had no room for the whole of it.
        smallest, largest = min(resources.actors, limit), min(resources.actors + resources.actors_to_come, limit)
        gpus = f" and {resources.gpus:g} GPU" if resources.gpus else ""
        waits_for = f"{self.stage}: {smallest} actors of {resources.cpus:g} CPU{gpus}, readers of {READER_CPUS} CPU"
        items = bounded_dataset([{"item": json.dumps(item)} for item in self.items], largest)
        with AttemptLimiter() as limiter:
            watch(items, waits_for, resources, limiter)
            rows: Iterable[Any] = self._results(items, resources, (smallest, largest), limiter).iter_rows()
            yield from rows

    def _results(
        self, items: ray.data.Dataset, resources: ResourcePlan, actors: tuple[int, int], limiter: AttemptLimiter
    ) -> ray.data.Dataset:
        smallest, largest = actors
        reader: Any = _read_rows
        return items.map_batches(
            reader,
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=READER_CPUS,
            compute=ray.data.TaskPoolStrategy(largest),
            fn_kwargs={"rows": self.rows, "columns": self.columns},
        ).map_batches(
            _ActorAdapter,
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=resources.cpus,
            num_gpus=resources.gpus,
            label_selector=resources.label_selector,
            compute=ray.data.ActorPoolStrategy(min_size=smallest, max_size=largest),
            fn_constructor_args=(
                partial(self.actor, resources.threads, *self.arguments),
                limiter,
                self.folder_of,
                path_in_study(self.rows)[0],
                self.stage,
            ),
        )

    def useful_actors(self, limit: int) -> int:
        """Count the actors, at most `limit`, that the work is worth; read no more tables than that takes."""
        tokens_of: dict[str, int] = {}
        tokens = 0
        for item in self.items:
            table = item["rows"]
            if table not in tokens_of:
                tokens_of[table] = pc.sum(self.rows.read_table(table, ["tokens"])["tokens"]).as_py() or 0
            tokens += tokens_of[table]
            if useful_processes(limit, tokens) == limit:
                break
        return useful_processes(limit, tokens)


def bounded_dataset(items: Sequence[Mapping[str, str | int]], workers: int) -> ray.data.Dataset:
    """Make a dataset of items, each a block, for `workers` actors or tasks, and bound what is read ahead of them.

    What is read ahead waits in the object store: at most `AHEAD_BYTES` a worker, and never more than the half of the
    store that Ray Data grants itself. Without that bound, tasks that read would fill this half whatever the workers do.
    """
    dataset = ray.data.from_items(list(items), override_num_blocks=len(items))
    limits = ray.data.ExecutionResources.for_limits(object_store_memory=workers * AHEAD_BYTES)
    dataset.context.execution_options.resource_limits = limits
    return dataset


def watch(dataset: ray.data.Dataset, waits_for: str, resources: ResourcePlan, limiter: AttemptLimiter) -> None:
    """End the execution of a dataset with an error where it makes no progress, see `Watchdog`.

    Args:
        dataset: before it is executed.
        waits_for: what has to start or to go on, for the messages.
        resources: with the limits.
        limiter: of those who work on it.
    """
    callback: Any = partial(DataWatch, waits_for, resources, limiter.last_sign)
    dataset.context.custom_execution_callback_classes = [*dataset.context.custom_execution_callback_classes, callback]


def _read_rows(batch: pa.Table, *, rows: Folder, columns: Sequence[str]) -> pa.Table:
    item = batch["item"][0].as_py()
    table = rows.read_table(json.loads(item)["rows"], ["id", *columns])
    return pa.table({"item": [item], **{name: _as_list(table[name]) for name in table.column_names}})


def _as_list(column: pa.ChunkedArray) -> pa.ListArray:
    """Wrap a column into a list array of length 1 and keep its type: through Python's integers, tokens become int64."""
    return pa.ListArray.from_arrays([0, len(column)], column.combine_chunks())


class _ActorAdapter:
    """Turns Ray Data's batches into a model actor's plain arguments, and its results back into batches."""

    def __init__(
        self,
        load: Callable[[], ModelActor[Mapping[str, object]]],
        limiter: AttemptLimiter,
        folder_of: Callable[[Item], Folder],
        study: str,
        stage: str,
    ) -> None:
        self._load, self._limiter, self._folder_of = load, limiter, folder_of
        self._meter = Meter(study, stage)
        self._actor: ModelActor[Mapping[str, object]] | None = None

    def __call__(self, batch: pa.Table) -> pa.Table:
        return pa.Table.from_pylist([self._call(row.pop("item"), row.pop("id"), row) for row in batch.to_pylist()])

    def _call(self, text: str, ids: list[str], columns: Mapping[str, Sequence[object]]) -> Mapping[str, object]:
        item: Item = json.loads(text)
        self._limiter.start(self._folder_of(item), text, len(ids), item["rows"])
        with self._limiter.working():
            return self._work(item, ids, columns)

    def _work(self, item: Item, ids: list[str], columns: Mapping[str, Sequence[object]]) -> Mapping[str, object]:
        if self._actor is None:
            # Not in the constructor: a worker that dies while it loads the model counts as an attempt at the item, too.
            self._actor = self._load()
        values = zip(*columns.values(), strict=True)
        examples = [dict(zip(columns, example, strict=True)) for example in values]
        start = time.monotonic()
        result = self._actor(item, ids, examples)
        self._meter.count_item(ids, result, time.monotonic() - start)
        return result
