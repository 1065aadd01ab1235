"""Near-copies in the pool: those of words, which stage *prepare* looks for, and those of meaning in a sample."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from instsel.arrays import list_rows
from instsel.console import inline
from instsel.data.chat import prompt_text
from instsel.data.semantic_copies import nearest_rows
from instsel.io.store import Folder
from instsel.report.compared import Facts
from instsel.report.markdown import percent
from instsel.report.record import StudyRecord
from instsel.study.results import NearDuplicates

TABLE = "near_duplicates.parquet"
# Prompts of two embeddings above it say the same in nearly all cases with the usual encoders.
SAME_MEANING = 0.95
MOST_EXAMPLES = 8
MOST_LETTERS = 200


class NearCopyExample(Facts):
    """Two rows that are nearly the same: ids, sources, the beginning of each, and their similarity."""

    id: str
    source: str
    text: str
    other: str
    other_source: str
    other_text: str
    similarity: float


class SemanticCopies(Facts):
    """Prompts of a sample that have another one of nearly the same meaning.

    Attributes:
        cosine: least cosine of two embeddings.
        sampled: prompts of the sample.
        compared: rows that each was compared with.
        rows: prompts of the sample that have another one.
        examples: some of them.
    """

    cosine: float
    sampled: int
    compared: int
    rows: int
    examples: list[NearCopyExample]


class NearCopyFacts(Facts):
    """Near-copies in the pool, see `study.results.NearDuplicates`; `semantic` where embeddings were taken."""

    threshold: float
    dropped: bool
    groups: int
    rows: int
    sources: dict[str, int]
    examples: list[NearCopyExample]
    semantic: SemanticCopies | None = None


def near_copies(record: StudyRecord, semantic: SemanticCopies | None) -> NearCopyFacts | None:
    """Collect the near-copies of a pool; None where they were not looked for.

    Args:
        record: of the study.
        semantic: what `semantic_copies` measured, if it did.
    """
    counted = None if record.prepared is None else record.prepared.get("near_duplicates")
    if counted is None:
        return None
    result = NearDuplicates.model_validate(counted)
    examples = {(pair.id, pair.kept_id): pair for pair in result.examples}
    texts = _texts(record.folder / "prepare", [name for name, _ in examples])
    return NearCopyFacts(
        threshold=result.threshold,
        dropped=result.dropped,
        groups=result.groups,
        rows=result.rows,
        sources=result.sources,
        examples=[
            NearCopyExample(
                id=pair.id,
                source=pair.source or "",
                text=texts.get(names, ("", ""))[0],
                other=pair.kept_id,
                other_source=pair.kept_source or "",
                other_text=texts.get(names, ("", ""))[1],
                similarity=pair.similarity,
            )
            for names, pair in examples.items()
        ],
        semantic=semantic,
    )


def _texts(folder: Folder, ids: Sequence[str]) -> dict[tuple[str, str], tuple[str, str]]:
    """Return the beginnings of near-copies and of the rows that stay, without all of the table in memory."""
    wanted = pa.array(ids, pa.string())
    texts = {}
    with folder.open(TABLE) as stream:
        for batch in pq.ParquetFile(stream).iter_batches(columns=["id", "kept_id", "text", "kept_text"]):
            for line in batch.filter(pc.is_in(batch["id"], wanted)).to_pylist():
                texts[line["id"], line["kept_id"]] = line["text"], line["kept_text"]
    return texts


def semantic_copies(record: StudyRecord) -> SemanticCopies | None:
    """Look for prompts that say the same in a sample of the pool; None where the study takes no embeddings."""
    if "embed" not in record.manifests or record.prepared is None:
        return None
    folder = record.folder / "embed" / "pool"
    shards = [name for name in record.prepared["pool"]["shards"] if folder.exists(f"{name}.arrow")]
    if not shards:
        return None

    def read(shard: str) -> tuple[list[str], np.ndarray]:
        table = folder.read_table(f"{shard}.arrow")
        return table["id"].to_pylist(), list_rows(table["embedding"])

    nearest = nearest_rows(shards, read, record.prepared["pool"]["rows"])
    same = np.flatnonzero(nearest.cosines >= SAME_MEANING)
    shown = same[np.argsort(-nearest.cosines[same], kind="stable")][:MOST_EXAMPLES].tolist()
    pairs = [(nearest.ids[index], nearest.others[index], float(nearest.cosines[index])) for index in shown]
    prompts = _prompts(record, [name for first, second, _ in pairs for name in (first, second)])
    return SemanticCopies(
        cosine=SAME_MEANING,
        sampled=len(nearest.ids),
        compared=nearest.compared,
        rows=len(same),
        examples=[
            NearCopyExample(
                id=first,
                source=prompts[first][0],
                text=prompts[first][1],
                other=second,
                other_source=prompts[second][0],
                other_text=prompts[second][1],
                similarity=cosine,
            )
            for first, second, cosine in pairs
        ],
    )


def _prompts(record: StudyRecord, ids: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return source and beginning of the prompt of some rows."""
    wanted = pa.array(sorted(set(ids)), pa.string())
    index = record.reader.index
    shards = index.filter(pc.is_in(index["id"], wanted))["shard"].unique().to_pylist()
    prompts = {}
    for shard in sorted(shards):
        table = (record.folder / "prepare" / "pool").read_table(f"{shard}.parquet", ["id", "source", "messages"])
        for line in table.filter(pc.is_in(table["id"], wanted)).to_pylist():
            prompts[line["id"]] = (line["source"] or "", prompt_text(line["messages"])[:MOST_LETTERS])
    return prompts


def near_copies_text(copies: NearCopyFacts | None) -> list[str]:
    """Say how many near-copies there are, as lines of the report."""
    if copies is None:
        return []
    lines = [f"- {sentence}" for sentence in near_copies_sentences(copies)]
    if copies.rows:
        largest = sorted(copies.sources.items(), key=lambda item: (-item[1], item[0]))[:MOST_EXAMPLES]
        lines.append("- near-copies by source: " + ", ".join(f"{inline(name)} {rows:,}" for name, rows in largest))
    return ["\n".join(["## Near-copies\n", *lines])]


def near_copies_sentences(copies: NearCopyFacts) -> list[str]:
    """Say what is counted, and what it is counted by."""
    if not copies.rows:
        sentences = [f"No row of the pool is nearly the same as another (similarity {copies.threshold:g} or more)."]
    else:
        what = "were dropped" if copies.dropped else "are in the pool; `data.near_duplicates: drop` removes them"
        sentences = [
            f"{copies.rows:,} rows are nearly the same as one of {copies.groups:,} earlier rows (similarity "
            f"{copies.threshold:g} or more); they {what}."
        ]
    semantic = copies.semantic
    if semantic is not None and semantic.sampled:
        share = percent(semantic.rows / semantic.sampled)
        sentences.append(
            f"Of {semantic.sampled:,} sampled prompts {semantic.rows:,} ({share}) have a prompt of nearly the same "
            f"meaning among {semantic.compared:,} rows: a cosine of {semantic.cosine:g} or more. They are only counted."
        )
    return sentences
