"""Stage *categorize*: a category for every row of the pool, and rows of each category kept to evaluate on."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from instsel.arrays import row_blocks
from instsel.choice.data import group_labels
from instsel.config.mixture import ClusterCategories, ColumnCategories, EndpointCategories, Mixture
from instsel.config.study import Embedding, StudyConfig
from instsel.data.chat import prompt_text
from instsel.data.messages import Conversation
from instsel.errors import InputError
from instsel.io.fingerprint import fingerprint
from instsel.io.store import Folder
from instsel.mixture.categories import OTHER, Categories, divide, name_clusters, naming_rows
from instsel.pipeline.extraction import Item, pool_items
from instsel.study import dependencies
from instsel.study.estimates import ID_BYTES
from instsel.study.reader import StudyReader
from instsel.study.results import CategoriesResult, PrepareResult, RowCount
from instsel.study.stage import Finished, PlanContext, RunContext, Settings, Stage, StageEstimate, StageKey

CATEGORIES = "categories.parquet"
EVALUATION = "evaluation"
ANSWERS = "answers"
# How fast an endpoint is asked, and by whom, changes no answer.
ASKING = {"key_variable", "requests_at_once", "timeout", "attempts"}

LINE_BYTES = 40  # of the table of categories, the id left out


class Categorize(Stage[CategoriesResult]):
    """Give every row a category, merge small ones into "other", and write the rows to evaluate on."""

    name = "categorize"
    position = 50

    def parents(self, config: StudyConfig, key: str) -> list[StageKey]:
        by_embeddings = config.mixture is not None and dependencies.categories_by_embeddings(config.mixture)
        return [StageKey("prepare"), *([StageKey("embed")] if by_embeddings else [])]

    def settings(self, config: StudyConfig, key: str) -> Settings:
        mixture = config.mixture
        if mixture is None:
            return {}
        return {
            "categories": mixture.categories.model_dump(mode="json", exclude=ASKING),
            "evaluation_rows": mixture.evaluation_rows,
            "least_rows": mixture.least_rows,
            "targets": mixture.importance == "targets",
            **({"encoder": dependencies.encoder_settings(config)} if _has_free_tags(mixture) else {}),
        }

    def inputs(self, config: StudyConfig, key: str) -> Settings:
        merges_tags = config.mixture is not None and _has_free_tags(config.mixture)
        return {"encoder": dependencies.encoder(config)} if merges_tags else {}

    def run_key(self, context: RunContext, key: str) -> Finished[CategoriesResult]:
        import ray

        mixture, reader, stage = mixture_of(context.config), context.study, context.stage(self.name)
        tags, untagged = _tags(context, mixture)
        ids = reader.index["id"].to_pylist()
        try:
            categories = divide(ids, tags, least=mixture.least_rows, held=mixture.evaluation_rows)
        except ValueError as error:
            raise InputError(f"mixture: {error}") from error
        columns = {"category": categories.labels, "held": categories.held, "fold": categories.folds}
        texts = tags.cast(pa.string()) if isinstance(tags, pa.DictionaryArray) else tags
        stage.folder.write_table(CATEGORIES, pa.table({"id": ids, "tag": texts, **columns}))
        work = _EvaluationRows(context.stage("prepare").folder, stage.folder, categories, ids, reader.shards)
        ray.get(ray.remote(_write_evaluation).remote(work))
        validation = _nearest_validation(categories, ids, reader) if mixture.importance == "targets" else {}
        for name, rows in categories.merged.items():
            context.console.say(f"category {name} has {rows} rows, fewer than {mixture.least_rows}: counted to {OTHER}")
        for reason, rows in untagged.items():
            context.console.say(f"{rows} rows counted to {OTHER}: {reason}")
        sizes = _sizes(categories, reader)
        context.console.say(f"categories: {', '.join(f'{name} {size.rows}' for name, size in sizes.items())}")
        return Finished(
            CategoriesResult(
                categories=list(categories.names),
                sizes=sizes,
                merged=dict(categories.merged),
                untagged=untagged,
                validation=validation,
            )
        )

    def estimate(self, context: PlanContext, keys: Sequence[str]) -> StageEstimate:
        asks = isinstance(mixture_of(context.config).categories, EndpointCategories)
        rows = context.counts.rows
        return StageEstimate(
            self.name,
            rows=rows,
            # How fast an endpoint answers is not known; the others take seconds.
            seconds=None if asks else 0.0,
            disk=rows * (ID_BYTES + LINE_BYTES),
            memory_advice="lower embedding.token_budget",
        )


def count_categories(mixture: Mixture, groups: Mapping[str, Sequence[float]]) -> int:
    """Return how many categories the pool has, those counted that will be too small to be measured.

    Args:
        mixture: says what divides the pool.
        groups: "source" and "task" -> rows of each.
    """
    spec = mixture.categories
    if isinstance(spec, ColumnCategories):
        return len(groups[spec.by])
    if isinstance(spec, EndpointCategories) and spec.labels is not None:
        return len(spec.labels)
    return spec.count


def mixture_of(config: StudyConfig) -> Mixture:
    """Return the key `mixture`, which studies have whose stages read categories."""
    assert config.mixture is not None
    return config.mixture


def evaluation_file(number: int) -> str:
    """Return the name, in the stage's folder, of the rows that category `number` is evaluated on."""
    return f"{EVALUATION}/{number:04d}.parquet"


def _has_free_tags(mixture: Mixture) -> bool:
    return isinstance(mixture.categories, EndpointCategories) and mixture.categories.labels is None


def _tags(context: RunContext, mixture: Mixture) -> tuple[list[str] | pa.DictionaryArray, dict[str, int]]:
    """Return the tag of each row of the index, and why rows have none: reason -> rows."""
    import ray

    spec, reader = mixture.categories, context.study
    ids = reader.index["id"].to_pylist()
    if isinstance(spec, ClusterCategories):
        return _clusters(spec, reader, ids)
    if not isinstance(spec, EndpointCategories):
        return group_labels(reader, spec.by, ids), {}
    out = _answers_folder(spec, context)
    _ask(spec, out, context)
    answers = pa.concat_tables([out.read_table(f"{shard}.parquet") for shard in reader.shards])
    tags = dict(zip(answers["id"].to_pylist(), answers["tag"].to_pylist(), strict=True))
    reasons = Counter(reason for reason in answers["reason"].to_pylist() if reason)
    if spec.labels is not None:
        return [tags[row] or OTHER for row in ids], dict(reasons)
    counts = Counter(tag for tag in tags.values() if tag)
    merging: Any = ray.remote(**context.resources.model_options)(_merge_tags)
    merged = ray.get(merging.remote(dict(counts), context.config.embedding, spec.count))
    return [merged[tags[row]] if tags[row] else OTHER for row in ids], dict(reasons)


def _clusters(spec: ClusterCategories, reader: StudyReader, ids: Sequence[str]) -> tuple[list[str], dict[str, int]]:
    from instsel.mixture.clusters import cluster

    embeddings = reader.embeddings()
    numbers, _ = cluster(embeddings.values, spec.count, seed=spec.seed)
    cluster_of = dict(zip(embeddings.ids, numbers.tolist(), strict=True))
    named_by = {embeddings.ids[row]: int(numbers[row]) for row in naming_rows(numbers).tolist()}
    names = name_clusters(_prompts(reader, named_by))
    without = len(ids) - len(cluster_of)
    tags = [names[cluster_of[row]] if row in cluster_of else OTHER for row in ids]
    return tags, {"no embedding": without} if without else {}


def _prompts(reader: StudyReader, wanted: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """Yield the prompts of rows, and the cluster of each."""
    index = reader.index
    pairs = zip(index["id"].to_pylist(), index["shard"].to_pylist(), strict=True)
    for shard in sorted({shard for row, shard in pairs if row in wanted}):
        table = (reader.study / "prepare" / "pool").read_table(f"{shard}.parquet", ["id", "messages"])
        for row, messages in zip(table["id"].to_pylist(), table["messages"].to_pylist(), strict=True):
            if row in wanted:
                yield prompt_text(messages), wanted[row]


def _answers_folder(spec: EndpointCategories, context: RunContext) -> Folder:
    """Return the folder of the endpoint's answers, named by what they depend on.

    So other sizes of categories do not ask again.
    """
    prepare = context.stage("prepare").fingerprint
    name = fingerprint({"model": spec.model, "labels": spec.labels, "prepare": prepare})
    return context.folder / ANSWERS / name


def _ask(spec: EndpointCategories, out: Folder, context: RunContext) -> None:
    """Put the shards without answers to the endpoint."""
    from instsel.runtime.actors import ActorPool

    key = None if spec.key_variable is None else os.environ.get(spec.key_variable)
    if spec.key_variable is not None and not key:
        raise InputError(f"mixture.categories.key_variable: {spec.key_variable} is not set; put the key there")
    prepare, folder = context.stage("prepare"), context.stage("categorize").folder
    complete = set(out.names())
    items = pool_items(prepare.result(PrepareResult))
    missing = [item for item in items if f"{item['name']}.parquet" not in complete]
    # The waiting is the endpoint's; a process of its own keeps the driver free.
    resources = replace(context.resources, actors=1, gpus=0)
    arguments = (spec, key, out)
    pool = ActorPool("categorize", missing, prepare.folder, _Asker, arguments, lambda item: folder, ["messages"])
    with context.console.bar("categorize", len(missing), "shards") as bar:
        for _ in pool.run(resources):
            bar.advance(1)
    out.clean()


class _AskedRows(TypedDict):
    """What an actor says of a shard when it has written the endpoint's answers."""

    rows: int


class _Asker:
    """Holds the client of the endpoint."""

    def __init__(self, threads: int, spec: EndpointCategories, key: str | None, out: Folder) -> None:
        from instsel.mixture.endpoint import Tagger

        self.spec, self.out = spec, out
        self.tagger = Tagger(
            spec.url,
            spec.model,
            key=key,
            key_variable=spec.key_variable,
            labels=spec.labels,
            rows_per_request=spec.rows_per_request,
            timeout=spec.timeout,
            attempts=spec.attempts,
        )

    def __call__(self, item: Item, ids: list[str], examples: Sequence[Conversation]) -> _AskedRows:
        prompts = [prompt_text(example["messages"]) for example in examples]
        size = self.spec.rows_per_request
        requests = [prompts[start : start + size] for start in range(0, len(prompts), size)]
        with ThreadPoolExecutor(self.spec.requests_at_once) as pool:
            answers = [answer for part in pool.map(self.tagger.tag, requests) for answer in part]
        tags = pa.array([answer.tag for answer in answers], pa.string())
        reasons = pa.array([answer.reason for answer in answers], pa.string())
        self.out.write_table(f"{item['name']}.parquet", pa.table({"id": ids, "tag": tags, "reason": reasons}))
        return {"rows": len(ids)}


def _merge_tags(counts: dict[str, int], embedding: Embedding, most: int) -> dict[str, str]:
    from instsel.mixture.tagging import merge_tags
    from instsel.models.embeddings import Encoder

    encoder = Encoder(embedding)
    return merge_tags(counts, lambda texts: encoder.embed(encoder.tokenise(texts)), most)


@dataclass(frozen=True)
class _EvaluationRows:
    """Which rows of the pool are kept to evaluate on, and where they go."""

    prepared: Folder
    out: Folder
    categories: Categories
    ids: Sequence[str]
    shards: Sequence[str]


def _write_evaluation(work: _EvaluationRows) -> None:
    """Write one table a category with the rows that are kept to evaluate on, in the order of their ids."""
    categories = work.categories
    rows = zip(work.ids, categories.labels.tolist(), categories.held.tolist(), strict=True)
    held = {row: label for row, label, is_held in rows if is_held}
    tables: dict[str, list[pa.Table]] = {name: [] for name in categories.names}
    for shard in work.shards:
        table = (work.prepared / "pool").read_table(f"{shard}.parquet", ["id", "input_ids", "labels", "tokens"])
        names = np.array([held.get(row, "") for row in table["id"].to_pylist()], dtype=object)
        for name in set(names.tolist()) - {""}:
            tables[name].append(table.filter(pa.array(names == name)))
    for number, name in enumerate(categories.names):
        folder, _, file = evaluation_file(number).partition("/")
        (work.out / folder).write_table(file, pa.concat_tables(tables[name]).sort_by("id"))


def _nearest_validation(categories: Categories, ids: Sequence[str], reader: StudyReader) -> dict[str, dict[str, int]]:
    """Count, of each target's validation rows, those whose prompt is nearest to the mean of a category's."""
    from instsel.mixture.clusters import nearest

    matrix, validation, targets = reader.embeddings(), *reader.validation_embeddings()
    rows = pc.index_in(pa.array(matrix.ids, pa.string()), value_set=pa.array(ids, pa.string()))
    labels = categories.labels[rows.to_numpy()]
    # A mean's length does not change which is nearest, so sums do.
    centres = np.zeros((len(categories.names), matrix.values.shape[1]))
    for block in row_blocks(len(labels), matrix.values.shape[1] * matrix.values.itemsize):
        unit = matrix.values[block] / np.linalg.norm(matrix.values[block], axis=1, keepdims=True)
        for number, name in enumerate(categories.names):
            centres[number] += unit[labels[block] == name].sum(axis=0)
    counts: dict[str, Counter[str]] = {target: Counter() for target in targets}
    for target, number in zip(targets, nearest(validation, centres).tolist(), strict=True):
        counts[target][categories.names[number]] += 1
    return {target: dict(count) for target, count in counts.items()}


def _sizes(categories: Categories, reader: StudyReader) -> dict[str, RowCount]:
    tokens, labels = reader.index["tokens"].to_numpy(), categories.labels
    names = [*categories.names, *([OTHER] if (labels == OTHER).any() else [])]
    return {
        name: RowCount(rows=int((labels == name).sum()), tokens=int(tokens[labels == name].sum())) for name in names
    }
