"""A choice as files, written with all rows in memory: what `instsel.choice.output` is compared with."""

import json
from collections import Counter

import pyarrow as pa

from instsel.choice.output import ROWS, TABLE, TRAINING_SET
from instsel.choice.parts import STORED
from instsel.data.encode import EXAMPLES
from instsel.data.messages import whole_turns
from instsel.training.dataset import SCHEMA

SHOWN = ["id", "original_id", "source", "task", "file", "line", "score", "reason"]


def write_plainly(prepared, out, picks):
    """Write a choice and return its rows, tokens, sources and tasks."""
    shards = (prepared / "pool").names()
    rows = {row["id"]: row for shard in shards for row in (prepared / "pool").read_table(shard).to_pylist()}
    picked = [rows[row] for row in picks.table["id"].to_pylist()]
    table = picks.table
    for name in STORED:
        table = table.append_column(name, pa.array([row[name] for row in picked], EXAMPLES.field(name).type))
    with out.writer(ROWS) as stream:
        for row, item in zip(picked, table.to_pylist(), strict=True):
            whole = {"messages": whole_turns(row["messages"], row["turn_keys"])}
            whole |= {name: json.loads(row[name]) for name in ("tools", "extra") if row[name] is not None}
            line = {**whole, **{key: item[key] for key in SHOWN}}
            stream.write((json.dumps(line, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass"))
    lines = len(picked) if picks.lines is None else picks.lines
    training = [picked[line % len(picked)] for line in range(lines)]
    known = {}
    for target in (prepared / "targets").names():
        stored = (prepared / "targets" / target).read_table("validation.parquet").to_pylist()
        known |= {row["id"]: row for row in stored}
    training += [known[row] for row in picks.validation]
    columns = {name: pa.array([row[name] for row in training], SCHEMA.field(name).type) for name in SCHEMA.names}
    out.write_table(TRAINING_SET, pa.table(columns))
    out.write_table(TABLE, table)
    return {
        "rows": len(picked),
        "tokens": sum(row["tokens"] for row in picked),
        "sources": dict(sorted(Counter(row["source"] for row in picked).items())),
        "tasks": dict(sorted(Counter(f"{row['source']}/{row['task'] or '-'}" for row in picked).items())),
    }
