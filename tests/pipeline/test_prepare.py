"""The prepare stage on a small pool of every kind of file, against a plain loop over the same rows."""

import gzip
import io
import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from instsel.config.file import parse_study
from instsel.config.study import Model, StudyConfig
from instsel.console import Terminal
from instsel.data.chat import check_tokenizer, encode
from instsel.data.contamination import SHARED_RUN
from instsel.data.encode import DUPLICATE
from instsel.data.formats import parse_row
from instsel.data.messages import BadRow
from instsel.errors import InputError, StudyError
from instsel.io.store import Folder
from instsel.models.loading import load_tokenizer
from instsel.pipeline import prepare
from instsel.pipeline.registry import build_graph
from instsel.runtime.errors import clear_errors
from instsel.study.folder import StageFolder
from instsel.study.results import FileCount, PoolResult
from instsel.study.stage import RunContext

pytestmark = pytest.mark.usefixtures("ray_session")

MAX_LENGTH = 160
Study = Callable[..., dict[str, Any]]


def row(number: int, answer: str = "", **more: Any) -> dict[str, Any]:
    question = {"role": "user", "content": f"Number {number}, who are you? 😀"}
    return {"messages": [question, {"role": "assistant", "content": answer or f"I am {number}."}], **more}


def sharegpt(number: int) -> dict[str, Any]:
    question, reply = row(number)["messages"]
    return {
        "conversations": [{"from": "human", "value": question["content"]}, {"from": "gpt", "value": reply["content"]}]
    }


def alpaca(number: int) -> dict[str, Any]:
    question, reply = row(number)["messages"]
    return {"instruction": question["content"], "input": "", "output": reply["content"], "source": "other"}


def dump(rows: list[Any]) -> bytes:
    return b"".join((r if isinstance(r, bytes) else json.dumps(r, ensure_ascii=False).encode()) + b"\n" for r in rows)


COPIED = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"


def write_study(folder: Path, model: Path) -> dict[str, Any]:
    """A pool of three files, one listed twice, with copies within and across files and a bad row of each kind."""
    first: list[Any] = [row(number, task=f"t{number % 2}", source="first") for number in range(1, 41)]
    first[16] = b'{"messages": [{"role": "user", "content": "cut'
    first[19] = {"messages": row(20)["messages"][:1]}
    first[21] = row(3, task="again")
    first[23] = b""
    first[24] = row(25, f"Somebody said {COPIED} and no more.", source="first")
    first[29] = b'{"messages": "\xff\xfe"}'
    first[32] = {"messages": [{"role": "user", "content": "word " * 200}, row(33)["messages"][1]]}
    first[33] = row(34, "word " * 200, source="first")
    first[39] = row(3)
    second = [alpaca(5), *(alpaca(number) for number in range(101, 112)), alpaca(101)]
    third = [sharegpt(number) for number in (110, 201, 202, 7, 203)]
    folder.joinpath("pool").mkdir(parents=True)
    (folder / "pool/a.jsonl").write_bytes(dump(first))
    (folder / "pool/b.jsonl.gz").write_bytes(gzip.compress(dump(second), mtime=0))
    pq.write_table(pa.Table.from_pylist(third), folder / "pool/c.parquet")
    folder.joinpath("targets").mkdir()
    (folder / "targets/shown.jsonl").write_bytes(dump([row(number) for number in range(301, 309)]))
    (folder / "targets/held.jsonl").write_bytes(dump([row(309), row(310, f"They said: {COPIED}.")]))
    return {
        "name": "small",
        "out": str(folder / "study"),
        "root": str(folder),
        "model": {"name": str(model)},
        "pool": [
            {"path": "pool/a.jsonl"},
            {"path": "pool/*.jsonl.gz"},
            {"path": "pool/c.parquet", "source": "third", "format": "sharegpt"},
            {"path": "pool/b.jsonl.gz", "source": "second again"},
        ],
        "targets": {"main": {"validation": "targets/shown.jsonl", "heldout": "targets/held.jsonl"}},
        "data": {"max_length": MAX_LENGTH, "shard_rows": 8},
        "selection": {"budget": 5, "methods": ["random"]},
    }


def run(raw: dict[str, Any], folder: Folder | None = None) -> tuple[StageFolder, str]:
    """Run the stage as the command does; return it and what a person saw."""
    study: StudyConfig = parse_study(raw, "study.yaml")
    shown = io.StringIO()
    graph = build_graph(study, folder or Folder.at(study.out))
    context: Any = RunContext(study, graph, None, Terminal(Console(file=shown, soft_wrap=True)))  # type: ignore[arg-type]
    with clear_errors():
        graph.stage("prepare").run(context, [""])
    return graph["prepare"], shown.getvalue()


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, Any]:
    """The keys of the study."""
    return write_study(tmp_path_factory.mktemp("prepare"), tiny_model)


@pytest.fixture(scope="module")
def prepared(raw: dict[str, Any], ray_session: None) -> tuple[StageFolder, str]:
    """The finished stage; tests leave it as it is."""
    return run(raw)


def expected_rows(raw: dict[str, Any], tokenizer: Any) -> tuple[list[dict[str, Any]], set[tuple[str, int, str]]]:
    """The oracle: one loop over all rows in the order of the study file."""
    root = Path(raw["root"])
    text, packed = (root / "pool/a.jsonl").read_bytes(), (root / "pool/b.jsonl.gz").read_bytes()
    columns = pq.read_table(root / "pool/c.parquet").to_pylist()
    again = ("pool/b.jsonl.gz", gzip.decompress(packed).split(b"\n"), "other")
    third = ("pool/c.parquet", [json.dumps(line).encode() for line in columns], "third")
    files = [("pool/a.jsonl", text.split(b"\n"), "first"), again, third, again]
    kept, rejected, seen = [], set(), set()
    for name, lines, source in files:
        for number, line in enumerate(lines, start=1):
            if not line:
                continue
            place = (f"{root}/{name}", number)
            try:
                found = parse_row(line, "auto")
                if COPIED in found.messages[1]["content"]:
                    raise BadRow(SHARED_RUN)
                example = encode(tokenizer, found.messages, MAX_LENGTH)
                if found.id in seen:
                    raise BadRow(DUPLICATE)
            except BadRow as error:
                rejected.add((*place, str(error)))
                continue
            seen.add(found.id)
            told = {"id": found.id, "source": found.source if source == "first" else source, "task": found.task}
            counts = {"tokens": len(example.input_ids), "answer_tokens": example.answer_tokens}
            kept.append({**told, **counts, "file": place[0], "line": number, "messages": found.messages})
    return kept, rejected


def pool_rows(stage: StageFolder) -> list[dict[str, Any]]:
    folder = stage.folder / "pool"
    return [{**line, "shard": name} for name in folder.names() for line in folder.read_table(name).to_pylist()]


def files_of(folder: str) -> dict[str, bytes]:
    """Everything the stage leaves but its manifest, which holds times."""
    found = {str(path.relative_to(folder)): path for path in Path(folder).rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if name != "manifest.json"}


def test_each_row_is_kept_once_where_it_first_stands(
    raw: dict[str, Any], prepared: tuple[StageFolder, str], tiny_tokenizer: Any
) -> None:
    kept, _ = expected_rows(raw, tiny_tokenizer)
    rows = pool_rows(prepared[0])
    assert [{key: line[key] for key in kept[0]} for line in rows] == kept
    assert len({line["id"] for line in rows}) == len(rows)
    for line in rows:
        example = encode(tiny_tokenizer, line["messages"], MAX_LENGTH)
        assert (line["input_ids"], line["labels"]) == (example.input_ids, example.labels)


def test_rows_set_aside_are_listed_with_file_line_and_reason(
    raw: dict[str, Any], prepared: tuple[StageFolder, str], tiny_tokenizer: Any
) -> None:
    _, expected = expected_rows(raw, tiny_tokenizer)
    folder = prepared[0].folder / "rejected"
    found = [line for name in folder.names() for line in folder.read_table(name).to_pylist()]
    assert {(line["file"], line["line"], line["reason"]) for line in found} == expected
    a, b = (f"{raw['root']}/pool/{name}" for name in ("a.jsonl", "b.jsonl.gz"))
    assert {(a, 17, "broken JSON at column 43"), (a, 22, DUPLICATE), (a, 25, SHARED_RUN), (b, 1, DUPLICATE)} <= expected
    assert len(found) == sum(prepared[0].manifest()["result"]["pool"]["rejected"].values())


def test_the_index_matches_the_shards(prepared: tuple[StageFolder, str]) -> None:
    rows = pool_rows(prepared[0])
    index = prepared[0].folder.read_table("index.parquet").to_pylist()
    assert index == [{**{key: line[key] for key in index[0]}, "shard": line["shard"].split(".")[0]} for line in rows]
    assert list(index[0]) == ["id", "source", "task", "tokens", "answer_tokens", "shard"]


def test_the_manifest_counts_what_there_is(prepared: tuple[StageFolder, str]) -> None:
    stage, shown = prepared
    manifest, rows = stage.manifest(), pool_rows(stage)
    pool = manifest["result"]["pool"]
    tokens = sum(line["tokens"] for line in rows)
    assert stage.done()
    assert (pool["rows"], pool["tokens"], manifest["cost"]["tokens"]) == (len(rows), tokens, tokens)
    assert pool["shards"] == sorted({line["shard"].split(".")[0] for line in rows})
    by_source = {
        name: [line["tokens"] for line in rows if line["source"] == name] for name in ("first", "other", "third")
    }
    assert pool["sources"] == {name: {"rows": len(own), "tokens": sum(own)} for name, own in by_source.items()}
    assert pool["rejected"][DUPLICATE] == 2 + 2 + 2 + 13
    assert manifest["cost"]["peak_memory_bytes"] > 10_000_000
    assert list(manifest["result"]["targets"]) == ["main"]
    assert f"{len(rows)} rows of 3 sources, {tokens} tokens; rejected " in shown
    assert f"19 x {DUPLICATE}" in shown


def test_a_killed_run_goes_on_with_what_is_missing(
    raw: dict[str, Any], prepared: tuple[StageFolder, str], tmp_path: Path
) -> None:
    folder = shutil.copytree(prepared[0].folder.path, tmp_path / "study/prepare")
    whole = files_of(str(folder))
    # Rows 3 and 5, whose copies stand in later shards, and such copies themselves.
    lost = ["00000-000000", "00000-000002", "00001-000000"]
    for shard in lost:
        (folder / "pool" / f"{shard}.parquet").unlink()
    (folder / "rejected" / f"{lost[0]}.parquet").unlink()
    # Of these two, what a disk without power left of them.
    for cut in ("pool/00000-000003.parquet", "rejected/00000-000004.parquet"):
        (folder / cut).write_bytes((folder / cut).read_bytes()[:-20])
    for name in ("manifest.json", "index.parquet"):
        (folder / name).unlink()
    (folder / "pool/.00000-000000.parquet.12345678.part").write_bytes(b"half")
    kept = folder / "pool/00000-000001.parquet"
    before = kept.stat()
    stage, _ = run({**raw, "out": str(tmp_path / "study")})
    assert files_of(str(folder)) == whole
    assert (kept.stat().st_mtime_ns, kept.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert stage.manifest()["result"]["pool"]["rows"] == prepared[0].manifest()["result"]["pool"]["rows"]


@pytest.mark.long
def test_after_a_full_disk_the_next_run_goes_on_and_gives_the_same_bytes_as_any_other(
    raw: dict[str, Any], prepared: tuple[StageFolder, str], tmp_path: Path
) -> None:
    from fsspec.implementations.local import LocalFileSystem

    class Full(pafs.FSSpecHandler):
        """A disk on which the pool's third shard finds no room."""

        def open_output_stream(self, path: str, metadata: Any) -> Any:
            if "/pool/.00000-000002" in path:
                raise OSError(28, "No space left on device")
            return super().open_output_stream(path, metadata)

    out = tmp_path / "study"
    full = Folder(pafs.PyFileSystem(Full(LocalFileSystem())), str(out))
    with pytest.raises(StudyError) as error:
        run(raw, full)
    assert str(error.value).startswith(f"no space left while writing {out}/prepare/pool/00000-000002.parquet; ")
    done = files_of(str(out / "prepare"))
    assert "pool/00000-000000.parquet" in done
    assert not [name for name in done if name.startswith("pool/00000-000002") or name.endswith(".part")]
    stage, _ = run({**raw, "out": str(out)})
    assert files_of(stage.folder.path) == files_of(prepared[0].folder.path)


def refusal(raw: dict[str, Any]) -> str:
    with pytest.raises(InputError) as error:
        run(raw)
    assert not build_graph(parse_study(raw, "x"), Folder.at(raw["out"]))["prepare"].done()
    return str(error.value)


def test_files_without_rows_are_named(tiny_study: Study, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl.gz").write_bytes(gzip.compress(b""))
    pq.write_table(pa.table({"messages": pa.array([], pa.string())}), tmp_path / "empty.parquet")
    text = refusal(tiny_study(pool=[{"path": "empty.jsonl.gz"}, {"path": "empty.parquet"}]))
    assert text == "pool: no usable row; its files hold no rows"


def test_a_pool_without_a_usable_row_is_refused_with_reasons(tiny_study: Study, tmp_path: Path) -> None:
    raw = tiny_study()
    (tmp_path / "pool/rows.jsonl").write_bytes(b'{"text": 1}\n\xff\n{"text": 2}\n')
    text = refusal(raw)
    assert text.startswith("pool: no usable row; rows were rejected: 2 x no turns and no prompt with an answer")
    assert text.endswith("1 x not UTF-8")


def test_an_entry_without_a_row_is_refused_where_another_has_its_file(tiny_study: Study, tmp_path: Path) -> None:
    raw = tiny_study(pool=[{"path": "rows.json"}, {"path": "rows.json", "split": "test"}])
    (tmp_path / "rows.json").write_text(json.dumps({"train": [row(1), row(2)], "test": [{"ask": "Why?"}]}))
    assert refusal(raw).startswith("pool.1.path: no usable row; rows were rejected: 1 x no turns and no prompt")


def test_a_damaged_file_is_named_with_its_line(tiny_study: Study, tmp_path: Path) -> None:
    raw = tiny_study(pool_rows=200, pool=[{"path": "cut.jsonl.gz"}])
    packed = gzip.compress((tmp_path / "pool/rows.jsonl").read_bytes())
    (tmp_path / "cut.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    text = refusal(raw)
    assert text.startswith(f"pool.0.path: {tmp_path}/cut.jsonl.gz: damaged after line ")
    assert text.endswith("fetch or pack the file again")


def test_bug_a_pool_file_that_grows_while_it_is_prepared_is_told(tiny_study: Study, tmp_path: Path) -> None:
    raw = tiny_study(pool_rows=200, data={"shard_rows": 8})
    rows, shards = tmp_path / "pool/rows.jsonl", Path(raw["out"]) / "prepare/pool"

    def grow() -> None:
        while not (shards.is_dir() and any(shards.glob("*.parquet"))):
            time.sleep(0.01)
        with rows.open("a") as stream:
            stream.write(rows.read_text().splitlines()[0] + "\n")

    writer = threading.Thread(target=grow, daemon=True)
    writer.start()
    text = refusal(raw)
    writer.join()
    assert text.startswith("pool.0.path: ")
    assert "rows.jsonl changed while" in text and "wait until it is whole, and run the same command again" in text
    stage, _ = run(raw)
    assert (
        stage.manifest()["result"]["pool"]["rows"] + sum(stage.manifest()["result"]["pool"]["rejected"].values()) == 201
    )


def test_a_model_without_a_template_is_refused_unless_the_study_gives_one(
    tiny_study: Study, tiny_model: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    (model / "chat_template.jinja").unlink()
    raw = tiny_study(model={"name": str(model)})
    assert refusal(raw) == "the tokenizer has no chat template; set model.chat_template to the path of a Jinja file"
    shutil.copy(tiny_model / "chat_template.jinja", tmp_path / "mine.jinja")
    check_tokenizer(load_tokenizer(Model(name=str(model), chat_template=str(tmp_path / "mine.jinja"))))


def test_weights_in_float16_are_told_where_bfloat16_would_round_them(
    tiny_study: Study, tiny_model: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "dtype": "float16"}))
    told = {dtype: run(tiny_study(model={"name": str(model), "dtype": dtype}))[1] for dtype in ("bfloat16", "float32")}
    assert "stored in float16: bfloat16 keeps 8 of their 11 bits" in told["bfloat16"]
    assert "float16" not in told["float32"]


def test_every_file_that_gave_no_row_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"full": FileCount(rows=1, rejected={}), "copies": FileCount(rows=0, rejected={DUPLICATE: 2})}
    files |= {
        "bad": FileCount(rows=0, rejected={DUPLICATE: 1, "not UTF-8": 9}),
        "empty": FileCount(rows=0, rejected={}),
    }
    pool = PoolResult(rows=1, tokens=1, shards=[], sources={}, rejected={}, files=files)
    lines = prepare._empty_files(pool)
    assert lines[0] == "3 of 4 files gave no row:"
    assert [line.partition(":")[0] for line in lines[1:]] == ["copies", "bad", "empty"]
    monkeypatch.setattr(prepare, "MOST_FILES", 1)
    assert prepare._empty_files(pool)[2:] == ["and 2 more, which the report lists"]
