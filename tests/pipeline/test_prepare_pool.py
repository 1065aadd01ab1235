"""How many chunks of the pool a task of stage *prepare* takes."""

import gzip
from pathlib import Path

import pytest

from instsel.data.readers import SourceFile
from instsel.pipeline import prepare_pool

LINE = b'{"messages": [{"role": "user", "content": "%s"}, {"role": "assistant", "content": "Yes."}]}\n' % (
    b"why " * 200
)


@pytest.mark.parametrize(("megabytes", "shard_rows", "chunks"), [(1, 10, 1), (5, 1000, 1), (5, 50, 4), (5, 10, 8)])
def test_a_task_takes_several_chunks_where_a_file_has_many(
    megabytes: int, shard_rows: int, chunks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare_pool, "encoders", lambda: 2)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(LINE * (megabytes * 10**6 // len(LINE)))
    assert prepare_pool._chunks_of_a_task([SourceFile(str(path))], shard_rows) == chunks


def test_chunks_that_are_held_in_memory_have_a_task_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare_pool, "encoders", lambda: 2)
    plain, packed = tmp_path / "rows.jsonl", tmp_path / "rows.jsonl.gz"
    plain.write_bytes(LINE * 6000)
    packed.write_bytes(gzip.compress(LINE * 6000))
    files = [SourceFile(str(plain)), SourceFile(str(packed))]
    assert prepare_pool._chunks_of_a_task(files[:1], 10) > 1
    assert prepare_pool._chunks_of_a_task(files, 10) == 1
