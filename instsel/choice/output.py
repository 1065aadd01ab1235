"""A choice as files: a table of the picks, the rows as JSONL, and the examples that a training run reads."""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from instsel.choice.picks import SELECTED, Picks
from instsel.data.encode import EXAMPLES, StoredRow
from instsel.data.messages import whole_turns
from instsel.io.store import Folder
from instsel.study.results import RowCount, SelectResult
from instsel.training.dataset import SCHEMA, TrainingExample

TABLE = SELECTED
ROWS = "selected.jsonl"
STORED = ["source", "task", "tokens", "answer_tokens", "file", "line", "original_id", "extra"]
"""Columns of a stored row that the table of a choice has too."""

SHOWN = ["id", "original_id", "source", "task", "file", "line", "score", "reason"]
"""Columns of the table of a choice that its rows as JSONL have too."""

TRAINING_SET = "training.arrow"


def write_rows(prepared: Folder, out: Folder, picks: Picks) -> SelectResult:
    """Fetch the picked rows from their shards and write them in pick order.

    Args:
        prepared: Folder of stage *prepare*.
        out: Where to write.
        picks: The rows, and what they were picked by.

    Returns:
        What the choice is made of, and what it was made by.
    """
    order = dict.fromkeys(picks.table["id"].to_pylist())
    rows: dict[str, StoredRow] = {}
    for shard in _shards(prepared, order):
        stored: list[StoredRow] = (prepared / "pool").read_table(f"{shard}.parquet").to_pylist()
        rows |= {row["id"]: row for row in stored if row["id"] in order}
    picked = [rows[row] for row in order]
    table = picks.table
    for name in STORED:
        table = table.append_column(name, _column(picked, name, EXAMPLES.field(name).type))
    with out.writer(ROWS) as stream:
        for row, item in zip(picked, table.to_pylist(), strict=True):
            line = {**_whole_row(row), **{key: item[key] for key in SHOWN}}
            stream.write((json.dumps(line, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass"))
    lines = len(picked) if picks.lines is None else picks.lines
    validation = validation_examples(prepared, picks.validation)
    training = [*(picked[line % len(picked)] for line in range(lines)), *validation]
    out.write_table(TRAINING_SET, _training_set(training))
    out.write_table(TABLE, table)
    return SelectResult(
        rows=len(picked),
        tokens=sum(row["tokens"] for row in picked),
        sources=_counts(row["source"] for row in picked),
        tasks=_counts(f"{row['source']}/{row['task'] or '-'}" for row in picked),
        mixture=picks.mixture,
        training=_size(training) if len(training) != len(picked) else None,
        validation=_size(validation) if validation else None,
        **picks.details,
    )


def _whole_row(row: StoredRow) -> dict[str, object]:
    """Return a row with everything that it had: turns with all their keys, tools, and its other columns."""
    whole: dict[str, object] = {"messages": whole_turns(row["messages"], row["turn_keys"])}
    for name, text in (("tools", row["tools"]), ("extra", row["extra"])):
        if text is not None:
            whole[name] = json.loads(text)
    return whole


def validation_examples(prepared: Folder, lines: Sequence[str]) -> list[StoredRow]:
    """Return validation rows, those of the targets that are selected for, one for each id."""
    if not lines:
        return []
    targets, wanted = prepared / "targets", set(lines)
    rows: dict[str, StoredRow] = {}
    for target in targets.names():
        stored: list[StoredRow] = (targets / target).read_table("validation.parquet").to_pylist()
        rows |= {row["id"]: row for row in stored if row["id"] in wanted}
    return [rows[line] for line in lines]


def _size(rows: Sequence[StoredRow]) -> RowCount:
    return RowCount(rows=len(rows), tokens=sum(row["tokens"] for row in rows))


def write_training_sets(prepared: Folder, folders: Mapping[str, Folder], sets: Mapping[str, Sequence[str]]) -> None:
    """Write the training set of several runs, with one look at each shard.

    Args:
        prepared: Folder of stage *prepare*.
        folders: Run -> where to write it.
        sets: Run -> ids of its rows, in order.
    """
    ids = {row for rows in sets.values() for row in rows}
    examples: dict[str, TrainingExample] = {}
    for shard in _shards(prepared, ids):
        table = (prepared / "pool").read_table(f"{shard}.parquet", ["id", "input_ids", "labels"])
        examples |= {row["id"]: row for row in table.to_pylist() if row["id"] in ids}
    for name, rows in sets.items():
        folders[name].write_table(TRAINING_SET, _training_set([examples[row] for row in rows]))


def _shards(prepared: Folder, rows: Collection[str]) -> list[str]:
    """Return the shards that have some of these rows."""
    index = prepared.read_table("index.parquet", ["id", "shard"])
    kept = index.filter(pc.is_in(index["id"], pa.array(list(rows), pa.string())))
    return sorted(kept["shard"].unique().to_pylist())


def _training_set(rows: Sequence[StoredRow] | Sequence[TrainingExample]) -> pa.Table:
    return pa.table({name: _column(rows, name, SCHEMA.field(name).type) for name in SCHEMA.names})


def _column(rows: Sequence[Mapping[str, object]], name: str, kind: pa.DataType | None = None) -> pa.Array:
    return pa.array([row[name] for row in rows], kind)


def _counts(labels: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(labels).items()))
