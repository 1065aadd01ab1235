"""Google Cloud Storage and Azure by emulators: what a folder can do, while they are away, and where they refuse."""

import pickle
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from instsel.errors import InputError, StudyError
from instsel.io import retry
from instsel.io.cloud_store import as_os_error
from instsel.io.fingerprint import file_identity
from instsel.io.model_copies import local_copy
from instsel.io.store import Folder
from instsel.io.uri import expand, resolve, walk
from instsel.study.lease import LEASE, hold_lease
from tests.cloud_stores import AZURE_KEY, CloudStore
from tests.object_store import meanwhile

# Of aiohttp, about the size of what gcsfs sends at a time.
pytestmark = [pytest.mark.process, pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")]

LARGE = 60_000_000


def test_a_folder_in_a_store_is_one_of_a_disk(cloud_store: CloudStore, tmp_path: Path) -> None:
    folder = Folder.at(f"{cloud_store.uri}/one")
    assert folder.is_object_store and str(folder) == f"{cloud_store.uri}/one"
    assert (folder.exists(), folder.names(), folder.infos()) == (False, [], [])
    folder.create().write("a", b"1")
    folder.write("a", b"22")
    folder.write("empty", b"")
    (folder / "below").write("b", b"333")
    (folder / "below/deeper").write(".hidden", b"4")
    assert folder.names() == ["a", "below", "empty"]
    assert (folder / "below").names() == ["b", "deeper"]
    assert (folder.read("a"), folder.read("empty"), folder.size()) == (b"22", b"", 5)
    assert (folder.is_file("a"), folder.is_file("below"), folder.exists("none")) == (True, False, False)
    with pytest.raises(FileNotFoundError):
        folder.read("none")
    table = pa.table({"n": list(range(1000)), "text": ["word"] * 1000})
    for name in ("t.parquet", "t.arrow"):
        folder.write_table(name, table)
        assert folder.read_table(name, ["n"]) == table.select(["n"])
    (tmp_path / "large").write_bytes(bytes(range(256)) * (LARGE // 256))
    folder.put("large", tmp_path / "large")
    with (folder / "below").local() as copy, folder.filesystem.open_input_file(f"{folder.path}/large") as stream:
        assert (copy / "b").read_bytes() == b"333"
        stream.seek(LARGE // 256 * 256 - 2)
        assert stream.read() == b"\xfe\xff"
    folder.delete("a")
    folder.delete("none")
    (folder / "below").remove()
    assert folder.names() == ["empty", "large", "t.arrow", "t.parquet"]


def test_a_write_that_breaks_off_leaves_what_was_there(cloud_store: CloudStore) -> None:
    folder = Folder.at(f"{cloud_store.uri}/one")
    folder.write("a", b"old")
    with pytest.raises(ZeroDivisionError), folder.writer("a") as stream, folder.writer("b"):
        stream.write(b"new")
        raise ZeroDivisionError
    assert (folder.names(), folder.read("a")) == (["a"], b"old")


def test_globs_match(cloud_store: CloudStore) -> None:
    folder = Folder.at(f"{cloud_store.uri}/globs")
    for name in ("b.jsonl", "a.jsonl", "a.txt", ".hidden"):
        folder.write(name, b"1")
    (folder / "deep" / "er").write("a.jsonl", b"1")
    where = str(folder)
    assert expand(f"{where}/*.jsonl") == [f"{where}/a.jsonl", f"{where}/b.jsonl"]
    assert expand(f"{where}/**/a.jsonl") == [f"{where}/a.jsonl", f"{where}/deep/er/a.jsonl"]
    assert walk(where) == ["a.jsonl", "a.txt", "b.jsonl", "deep/er/a.jsonl"]


def test_of_many_writers_at_once_the_store_lets_one(cloud_store: CloudStore) -> None:
    folder = Folder.at(f"{cloud_store.uri}/once")
    with ThreadPoolExecutor(8) as threads:
        won = list(threads.map(lambda number: folder.create_once("x", b"%d" % number), range(8)))
    assert sum(won) == 1
    assert folder.read("x") == b"%d" % won.index(True)


def test_one_command_at_a_time_holds_the_lease(cloud_store: CloudStore) -> None:
    folder = Folder.at(f"{cloud_store.uri}/study")
    with hold_lease(folder, print), pytest.raises(InputError, match=rf"^out: {folder} is being written to by process"):
        with hold_lease(folder, print):
            pass
    assert not folder.exists(LEASE)


def test_an_object_is_its_content(cloud_store: CloudStore) -> None:
    folder = Folder.at(f"{cloud_store.uri}/pool")
    folder.write("rows.jsonl", b"one\n")
    one = file_identity(f"{folder}/rows.jsonl")
    assert file_identity(f"{folder}/rows.jsonl") == one
    folder.write("again.jsonl", b"one\n")
    assert file_identity(f"{folder}/again.jsonl") == one
    folder.write("rows.jsonl", b"two\n")
    assert file_identity(f"{folder}/rows.jsonl") != one


def test_a_model_may_be_there(cloud_store: CloudStore, tiny_model: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = Folder.at(f"{cloud_store.uri}/toy")
    for file in tiny_model.iterdir():
        folder.put(file.name, file)
    copy = local_copy(str(folder), None, "model.name")
    assert {file.name: file.read_bytes() for file in copy.iterdir()} == {
        file.name: file.read_bytes() for file in tiny_model.iterdir()
    }
    with pytest.raises(InputError, match=r"^model\.name: .*/none: there is no such bucket or folder"):
        local_copy(f"{cloud_store.uri}/none", None, "model.name")


def test_every_operation_waits_for_a_store_that_is_away(cloud_store: CloudStore, tmp_path: Path) -> None:
    folder = Folder.at(f"{cloud_store.uri}/away")
    folder.write("old", b"1")
    operations: list[Callable[[], Any]] = [
        lambda: folder.names(),
        lambda: folder.read("old"),
        lambda: folder.write("new", b"2"),
        lambda: folder.create_once("once", b"3"),
        lambda: folder.exists("none"),
    ]
    cloud_store.stop()
    with ThreadPoolExecutor(len(operations)) as threads:
        waiting = [threads.submit(operation) for operation in operations]
        back = meanwhile(lambda: (time.sleep(1.5), cloud_store.go_on()))
        names, old, _, once, exists = [each.result(timeout=120) for each in waiting]
        back.join()
    assert "old" in names and (old, once, exists) == (b"1", True, False)
    assert folder.read("new") == b"2"


def test_a_bucket_that_is_not_there_is_told(cloud_store: CloudStore) -> None:
    missing = Folder.at(f"{cloud_store.scheme}://no-such-bucket/one")
    with pytest.raises(InputError, match="no-such-bucket/one/x: there is no such bucket; make it"):
        missing.write("x", b"1")
    assert missing.names() == []


def test_a_file_system_in_a_message_to_workers_has_no_secret(cloud_store: CloudStore) -> None:
    folder = Folder.at(f"{cloud_store.uri}/one")
    folder.write("a", b"1")
    sent = pickle.dumps(folder)
    assert AZURE_KEY.encode() not in sent
    got: Folder = pickle.loads(sent)
    assert got.read("a") == b"1"


@pytest.mark.parametrize(
    ("uri", "module", "extra"),
    [("gs://b/x", "gcsfs", "gs"), ("abfs://c/x", "adlfs", "azure"), ("az://c@account/x", "adlfs", "azure")],
)
def test_a_package_that_is_missing_is_named(uri: str, module: str, extra: str, monkeypatch: Any) -> None:
    from fsspec.registry import _registry

    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(_registry, uri.partition("://")[0], raising=False)
    with pytest.raises(InputError, match=rf"^{uri}: .* not installed; pip install 'instsel\[{extra}\]'"):
        resolve(uri)


def test_an_account_that_nobody_names_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    adlfs = pytest.importorskip("adlfs", exc_type=ImportError)
    adlfs.AzureBlobFileSystem.clear_instance_cache()
    for name in ("AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCOUNT_NAME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="abfs://c/x: .*AZURE_STORAGE_ACCOUNT_NAME"):
        resolve("abfs://c/x")


@pytest.mark.parametrize("uri", ["gs://user:secret@b/x", "abfs://c/x?versionid=1"])
def test_secrets_and_options_are_refused(uri: str) -> None:
    with pytest.raises(InputError, match="key or password|options after a question mark"):
        resolve(uri)


class HttpResponseError(Exception):
    """Like that of azure.core."""

    def __init__(self, status: int) -> None:
        super().__init__("no")
        self.status_code = status


class ClientConnectorError(Exception):
    """Like that of aiohttp."""


class DefaultCredentialsError(Exception):
    """Like that of google.auth."""


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (HttpResponseError(403), PermissionError),
        (HttpResponseError(401), PermissionError),
        (HttpResponseError(404), FileNotFoundError),
        (HttpResponseError(429), ConnectionError),
        (HttpResponseError(503), ConnectionError),
        (HttpResponseError(400), OSError),
        (ClientConnectorError("no"), ConnectionError),
        (DefaultCredentialsError("no"), PermissionError),
        (OSError("Forbidden: https://..."), PermissionError),
        (FileNotFoundError("x"), None),
        (ValueError("x"), None),
        (OSError("x"), None),
    ],
)
def test_errors_are_those_of_python(error: Exception, kind: type | None) -> None:
    found = as_os_error(error)
    assert (None if found is None else type(found)) == kind


def test_credentials_that_are_refused_are_told_at_once(cloud_store: CloudStore, monkeypatch: Any) -> None:
    folder = Folder.at(f"{cloud_store.uri}/one")
    fs: Any = folder.filesystem.handler.fs

    def forbidden(*arguments: object, **options: object) -> None:
        raise HttpResponseError(403)

    with monkeypatch.context() as patch:
        patch.setattr(fs, "info", forbidden)
        variable = {"gs": "GOOGLE_APPLICATION_CREDENTIALS", "abfs": "AZURE_STORAGE_ACCOUNT_NAME"}[cloud_store.scheme]
        with pytest.raises(InputError, match=rf"^{folder}/a: the store refuses .*{variable}"):
            folder.read("a")


@pytest.mark.long
def test_a_store_that_stays_away_ends_with_what_to_do(cloud_store: CloudStore, monkeypatch: Any) -> None:
    folder = Folder.at(f"{cloud_store.uri}/one")
    folder.write("old", b"1")
    monkeypatch.setattr(retry, "RETRY_SECONDS", 1.0)
    cloud_store.stop()
    try:
        with pytest.raises(StudyError, match="one/old: the store has not answered for .* run the same command"):
            folder.read("old")
    finally:
        cloud_store.go_on()
    assert folder.read("old") == b"1"
