"""Stage *tag*: a category for every row of the pool, and rows of each category kept to evaluate on."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from instsel.arrays import row_blocks
from instsel.choice.choosers import groups_of
from instsel.config.mixture import ClusterCategories, EndpointCategories, Mixture
from instsel.config.study import Embedding, StudyConfig
from instsel.console import Terminal
from instsel.errors import InputError
from instsel.io.fingerprint import fingerprint
from instsel.io.store import Folder
from instsel.mixture.categories import OTHER, Categories, divide, name_clusters, naming_rows
from instsel.mixture.clusters import cluster, nearest
from instsel.mixture.endpoint import Tagger
from instsel.mixture.tagging import merge_tags
from instsel.models.embeddings import Encoder, prompt_text
from instsel.pipeline.extraction import pool_items
from instsel.runtime.actors import ActorPool
from instsel.runtime.session import ResourcePlan
from instsel.study.folder import StageFolder
from instsel.study.reader import StudyReader

TAGS = "tags.parquet"
EVALUATION = "evaluation"
ANSWERS = "answers"


def run(
    study: StudyConfig,
    mixture: Mixture,
    stage: StageFolder,
    prepare: StageFolder,
    reader: StudyReader,
    resources: ResourcePlan,
    terminal: Terminal,
) -> None:
    """Tag every row, gather small categories, and write the rows to evaluate on."""
    stage.start()
    labels, reasons = _labels(study, mixture, stage, prepare, reader, resources, terminal)
    ids = reader.index["id"].to_pylist()
    try:
        made = divide(ids, labels, least=mixture.least_rows, held=mixture.evaluation_rows)
    except ValueError as error:
        raise InputError(f"mixture: {error}") from error
    columns = {"id": ids, "categorize": labels, "category": made.labels, "held": made.held, "fold": made.folds}
    stage.folder.write_table(TAGS, pa.table(columns))
    writing: Any = ray.remote(_write_evaluation)
    ray.get(writing.remote(prepare.folder, stage.folder, made, ids, reader.shards))
    validation = _validation(made, ids, reader) if mixture.importance == "targets" else {}
    for name, rows in made.merged.items():
        terminal.say(f"category {name} has {rows} rows, fewer than {mixture.least_rows}: counted to {OTHER}")
    for reason, rows in reasons.items():
        terminal.say(f"{rows} rows counted to {OTHER}: {reason}")
    sizes = _sizes(made, reader)
    told = ", ".join(f"{name} {size['rows']}" for name, size in sizes.items())
    terminal.say(f"categories: {told}")
    stage.commit(
        {
            "categories": list(made.names),
            "sizes": sizes,
            "merged": dict(made.merged),
            "untagged": reasons,
            "validation": validation,
        }
    )


def evaluation_file(number: int) -> str:
    """Name, in the stage's folder, of the rows that category `number` is evaluated on."""
    return f"{EVALUATION}/{number:04d}.parquet"


def _labels(
    study: StudyConfig,
    mixture: Mixture,
    stage: StageFolder,
    prepare: StageFolder,
    reader: StudyReader,
    resources: ResourcePlan,
    terminal: Terminal,
) -> tuple[list[str], dict[str, int]]:
    """What each row of the index is tagged with, and why rows have no tag: reason -> rows."""
    how, ids = mixture.categories, reader.index["id"].to_pylist()
    if isinstance(how, ClusterCategories):
        return _clusters(how, reader, ids)
    if not isinstance(how, EndpointCategories):
        return groups_of(reader, how.by, ids), {}
    out = _answers(how, stage, prepare)
    _ask(how, out, stage.folder, prepare, resources, terminal)
    answers = pa.concat_tables([out.read_table(f"{shard}.parquet") for shard in reader.shards])
    tags = dict(zip(answers["id"].to_pylist(), answers["categorize"].to_pylist(), strict=True))
    reasons = Counter(reason for reason in answers["reason"].to_pylist() if reason)
    if how.labels is not None:
        return [tags[row] or OTHER for row in ids], dict(reasons)
    merging: Any = ray.remote(num_gpus=resources.gpus)(_merge)
    counts = Counter(tag for tag in tags.values() if tag)
    merged = ray.get(merging.remote(dict(counts), study.embedding, how.count))
    return [merged[tags[row]] if tags[row] else OTHER for row in ids], dict(reasons)


def _clusters(how: ClusterCategories, reader: StudyReader, ids: Sequence[str]) -> tuple[list[str], dict[str, int]]:
    embeddings = reader.embeddings()
    numbers, _ = cluster(embeddings.values, how.count, seed=how.seed)
    of = dict(zip(embeddings.ids, numbers.tolist(), strict=True))
    names = name_clusters(_texts(reader, {embeddings.ids[place]: of_row for place, of_row in _telling(numbers)}))
    without = len(ids) - len(of)
    return [names[of[row]] if row in of else OTHER for row in ids], {"no embedding": without} if without else {}


def _telling(numbers: np.ndarray) -> Iterator[tuple[int, int]]:
    """Places of the rows whose prompts suffice to name the clusters, and the cluster of each."""
    for place in naming_rows(numbers).tolist():
        yield place, int(numbers[place])


def _texts(reader: StudyReader, wanted: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """Prompts of rows, and the cluster of each."""
    index = reader.index
    pairs = zip(index["id"].to_pylist(), index["shard"].to_pylist(), strict=True)
    for shard in sorted({shard for row, shard in pairs if row in wanted}):
        table = (reader.study / "prepare" / "pool").read_table(f"{shard}.parquet", ["id", "messages"])
        for row, messages in zip(table["id"].to_pylist(), table["messages"].to_pylist(), strict=True):
            if row in wanted:
                yield prompt_text(messages), wanted[row]


def _answers(how: EndpointCategories, stage: StageFolder, prepare: StageFolder) -> Folder:
    """Folder of the endpoint's answers, named by what they depend on: other sizes of categories do not ask again."""
    name = fingerprint({"model": how.model, "labels": how.labels, "prepare": prepare.fingerprint})
    return stage.folder.parent / ANSWERS / name


def _ask(
    how: EndpointCategories, out: Folder, own: Folder, prepare: StageFolder, resources: ResourcePlan, terminal: Terminal
) -> None:
    """Put the shards without answers to the endpoint."""
    key = None if how.key_variable is None else os.environ.get(how.key_variable)
    if how.key_variable is not None and not key:
        raise InputError(f"mixture.categories.key_variable: {how.key_variable} is not set; put the key there")
    there = set(out.names())
    missing = [item for item in pool_items(prepare) if f"{item['name']}.parquet" not in there]
    # The waiting is the endpoint's; a process of its own keeps the driver free.
    one = replace(resources, actors=1, gpus=0)
    with terminal.bar("categorize", len(missing), "shards") as bar:
        arguments = (how, key, out)
        pool = ActorPool("categorize", missing, prepare.folder, _Asker, arguments, lambda item: own, ["messages"])
        for _ in pool.run(one):
            bar.advance(1)
    out.clean()


class _Asker:
    """Holds the client of the endpoint."""

    def __init__(self, threads: int, how: EndpointCategories, key: str | None, out: Folder) -> None:
        self.how, self.out = how, out
        self.tagger = Tagger(
            how.url,
            how.model,
            key=key,
            key_variable=how.key_variable,
            labels=how.labels,
            rows_per_request=how.rows_per_request,
            timeout=how.timeout,
            attempts=how.attempts,
        )

    def __call__(self, item: dict[str, str], ids: list[str], examples: list[dict[str, Any]]) -> dict[str, Any]:
        prompts = [prompt_text(example["messages"]) for example in examples]
        size = self.how.rows_per_request
        requests = [prompts[start : start + size] for start in range(0, len(prompts), size)]
        with ThreadPoolExecutor(self.how.requests_at_once) as pool:
            answers = [answer for part in pool.map(self.tagger.tag, requests) for answer in part]
        tags = pa.array([answer.tag for answer in answers], pa.string())
        reasons = pa.array([answer.reason for answer in answers], pa.string())
        self.out.write_table(f"{item['name']}.parquet", pa.table({"id": ids, "categorize": tags, "reason": reasons}))
        return {"rows": len(ids)}


def _merge(counts: dict[str, int], embedding: Embedding, most: int) -> dict[str, str]:
    encoder = Encoder(embedding)
    return merge_tags(counts, lambda texts: encoder.embed(encoder.tokenise(texts)), most)


def _write_evaluation(
    prepared: Folder, out: Folder, made: Categories, ids: Sequence[str], shards: Sequence[str]
) -> None:
    """One table a category with the rows that are kept to evaluate on, in the order of their ids."""
    held = {row: label for row, label, kept in zip(ids, made.labels.tolist(), made.held.tolist(), strict=True) if kept}
    found: dict[str, list[pa.Table]] = {name: [] for name in made.names}
    for shard in shards:
        table = (prepared / "pool").read_table(f"{shard}.parquet", ["id", "input_ids", "labels", "tokens"])
        names = np.array([held.get(row, "") for row in table["id"].to_pylist()])
        for name in set(names.tolist()) - {""}:
            found[name].append(table.filter(pa.array(names == name)))
    for number, name in enumerate(made.names):
        folder, _, file = evaluation_file(number).partition("/")
        (out / folder).write_table(file, pa.concat_tables(found[name]).sort_by("id"))


def _validation(made: Categories, ids: Sequence[str], reader: StudyReader) -> dict[str, dict[str, int]]:
    """Of each target's validation rows, how many have their prompt nearest to the mean of a category's."""
    matrix, own, targets = reader.embeddings(), *reader.validation_embeddings()
    of = dict(zip(ids, made.labels.tolist(), strict=True))
    labels = np.array([of[row] for row in matrix.ids])
    # A mean's length does not change which is nearest, so sums do.
    centres = np.zeros((len(made.names), matrix.values.shape[1]))
    for block in row_blocks(len(labels), matrix.values.shape[1] * matrix.values.itemsize):
        unit = matrix.values[block] / np.linalg.norm(matrix.values[block], axis=1, keepdims=True)
        for place, name in enumerate(made.names):
            centres[place] += unit[labels[block] == name].sum(axis=0)
    found: dict[str, Counter[str]] = {target: Counter() for target in targets}
    for target, place in zip(targets, nearest(own, centres).tolist(), strict=True):
        found[target][made.names[place]] += 1
    return {target: dict(counts) for target, counts in found.items()}


def _sizes(made: Categories, reader: StudyReader) -> dict[str, dict[str, int]]:
    tokens = reader.index["tokens"].to_numpy()
    every = [*made.names, *([OTHER] if (made.labels == OTHER).any() else [])]
    return {
        name: {"rows": int((made.labels == name).sum()), "tokens": int(tokens[made.labels == name].sum())}
        for name in every
    }
