"""S3 while it is away, cuts off, refuses or is not there; and what a user's places may look like."""

import os
import pickle
import re
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs as pafs

from instsel.config.file import parse_study
from instsel.config.study import StudyConfig
from instsel.data.readers import SourceFile, read_chunks
from instsel.data.sources import pool_files
from instsel.errors import InputError, StudyError
from instsel.io import retry
from instsel.io.object_store import MANY_ATTEMPTS, S3
from instsel.io.store import Folder
from instsel.io.uri import expand, resolve
from instsel.study.folder import open_folder
from tests.object_store import KEYS, ObjectStore, meanwhile

LARGE = 40_000_000


@pytest.fixture
def folder(object_store: ObjectStore) -> Folder:
    """A folder in the store with a few things."""
    folder = Folder.at("s3://studies/one")
    folder.write("old", b"1")
    folder.write_table("t.arrow", pa.table({"n": [1, 2]}))
    folder.write_table("t.parquet", pa.table({"n": [3, 4]}))
    (folder / "gone").write("a", b"2")
    return folder


@pytest.mark.parametrize(("kind", "seconds"), [("refuse", 1.5), ("hang", 4.0)])
def test_every_operation_waits_for_a_store_that_is_away(folder, object_store, tmp_path, kind, seconds):
    (tmp_path / "file").write_bytes(b"5")

    def copied() -> list[str]:
        with folder.local() as here:
            return sorted(path.name for path in here.glob("t.*"))

    operations = {
        "exists": (lambda: folder.exists("old"), True),
        "names": (lambda: "old" in folder.names(), True),
        "size": (lambda: folder.size() > 0, True),
        "read": (lambda: folder.read("old"), b"1"),
        "arrow": (lambda: folder.read_table("t.arrow")["n"].to_pylist(), [1, 2]),
        "parquet": (lambda: folder.read_table("t.parquet")["n"].to_pylist(), [3, 4]),
        "local": (copied, ["t.arrow", "t.parquet"]),
        "write": (lambda: folder.write("new", b"2"), None),
        "put": (lambda: folder.put("put", tmp_path / "file"), None),
        "delete": (lambda: folder.delete("none"), None),
        "clean": (lambda: folder.clean(), None),
        "remove": (lambda: (folder / "gone").remove(), None),
    }
    outage = meanwhile(lambda: getattr(object_store, kind)(seconds))
    time.sleep(0.3)
    with ThreadPoolExecutor(len(operations)) as pool:
        began = {name: pool.submit(call) for name, (call, _) in operations.items()}
        time.sleep(0.5)
        assert not [name for name, future in began.items() if future.done()]
        assert {name: future.result() for name, future in began.items()} == {
            name: expected for name, (_, expected) in operations.items()
        }
    outage.join()
    assert folder.names() == ["new", "old", "put", "t.arrow", "t.parquet"]
    assert (folder.read("new"), folder.read("put")) == (b"2", b"5")


def test_an_upload_that_is_cut_off_never_leaves_half_an_object_and_is_made_again(folder, object_store):
    earlier = b"1"
    for seconds in (0.05, 0.2, 0.4):
        data = os.urandom(LARGE)
        upload = meanwhile(partial(folder.write, "old", data))
        time.sleep(seconds)
        object_store.stop()
        assert object_store.objects("studies")["one/old"] in (earlier, data)
        object_store.go_on()
        upload.join()
        assert folder.read("old") == data
        earlier = data


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_pool_file_is_read_on_where_it_was_cut_off(folder, object_store, ending):
    rows = [{"n": number, "text": os.urandom(500).hex()} for number in range(20_000)]
    table = pa.Table.from_pylist(rows)
    if ending == "parquet":
        with folder.writer("pool.parquet") as stream:
            pq.write_table(table, stream, row_group_size=1000)
    else:
        folder.write(
            "pool.jsonl", b"".join(b'{"n": %d, "text": "%s"}\n' % (row["n"], row["text"].encode()) for row in rows)
        )
    chunks = read_chunks(SourceFile(f"{folder}/pool.{ending}"), 1000)
    _, lines = next(chunks)
    outage = meanwhile(lambda: object_store.refuse(1.0))
    time.sleep(0.2)
    lines += [line for _, chunk in chunks for line in chunk]
    outage.join()
    assert len(lines) == 20_000
    assert [int(re.search(rb'"n": (\d+)', line)[1]) for line in lines] == list(range(20_000))


def test_a_store_that_stays_away_ends_the_study_with_what_to_do(folder, object_store, monkeypatch, capfd):
    monkeypatch.setattr(retry, "RETRY_SECONDS", 1.0)
    object_store.stop()
    try:
        with pytest.raises(StudyError, match="studies/one/old: the store has not answered for .* run the same command"):
            folder.read("old")
    finally:
        object_store.go_on()
    assert capfd.readouterr().err.count("the store does not answer") == 1
    assert folder.read("old") == b"1"


def test_credentials_that_are_refused_are_told_at_once(folder, keys_are_checked, study_writer, tmp_path):
    began = time.monotonic()
    with pytest.raises(InputError, match=r"^out: s3://studies/.* the store refuses .*AWS_ACCESS_KEY_ID"):
        open_folder("s3://studies/two", "two")
    raw = study_writer(tmp_path, pool=[{"path": "s3://studies/pool/*.jsonl"}])
    with pytest.raises(InputError, match=r"^pool\.0\.path: s3://studies/pool.* the store refuses "):
        pool_files(parse_study(raw, "test"))
    with pytest.raises(InputError, match="studies/one/new: the store refuses"):
        folder.write("new", b"1")
    # A store that is away is waited for, five minutes.
    assert time.monotonic() - began < 60


def test_a_bucket_that_is_not_there_is_told(object_store):
    with pytest.raises(InputError, match=r"^out: .*no-such-bucket/one/study.json: there is no such bucket; make it"):
        open_folder("s3://no-such-bucket/one", "one")
    assert object_store.direct.get_file_info("no-such-bucket").type == pafs.FileType.NotFound


def test_a_file_that_is_not_there_is_told_at_once(folder):
    began = time.monotonic()
    with pytest.raises(FileNotFoundError):
        folder.read("none")
    assert time.monotonic() - began < 60


def test_markers_of_folders_are_no_files(folder, object_store):
    for path in ("studies/one", "studies/one/empty"):
        object_store.direct.create_dir(path)
    assert folder.names() == ["empty", "gone", "old", "t.arrow", "t.parquet"]
    assert expand("s3://studies/one/*") == [f"s3://studies/one/{name}" for name in ("old", "t.arrow", "t.parquet")]


@pytest.mark.parametrize(
    ("answer", "away"),
    [
        ("NETWORK_CONNECTION during HeadObject operation: curlCode: 7, Could not connect to server", True),
        ("UNKNOWN (HTTP status 503) during HeadObject operation: No response body.", True),
        ("UNKNOWN (HTTP status 500) during ListObjectsV2 operation: No response body.", True),
        ("UNKNOWN (HTTP status 429) during HeadObject operation: No response body.", True),
        ("SLOW_DOWN during PutObject operation: Please reduce your request rate", True),
        ("NO_SUCH_UPLOAD during CompleteMultipartUpload operation: The upload does not exist", True),
        ("ACCESS_DENIED during HeadObject operation: No response body.", False),
        ("NO_SUCH_BUCKET during PutObject operation: The specified bucket does not exist", False),
        ("NO_SUCH_KEY during GetObject operation", False),
    ],
)
def test_only_what_passes_by_itself_is_tried_again(answer, away):
    assert retry.is_away(OSError(f"When getting information for key 'a' in bucket 'b': AWS Error {answer}")) == away


def test_a_file_system_in_a_message_to_workers_keeps_its_patience_and_no_secret():
    retrying_filesystem = Folder.at("s3://studies/one").retrying_filesystem()
    sent = pickle.dumps(retrying_filesystem)
    assert not [name for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY") if KEYS[name].encode() in sent]
    got = pickle.loads(sent)
    assert isinstance(got, S3)
    assert got.attempts == MANY_ATTEMPTS


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_the_endpoint_comes_from_the_environment(object_store, monkeypatch, name):
    address = os.environ["AWS_ENDPOINT_URL"]
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv(name, address)
    Folder.at("s3://studies/one").write("a", b"1")
    assert object_store.objects("studies") == {"one/a": b"1"}


SECRETS = ["s3://KEY:hunter2@bucket/x", "s3://KEY:hun/ter2@bucket/x", "sftp://me:hunter2@host/x"]


@pytest.mark.parametrize("place", SECRETS)
def test_a_uri_with_a_secret_is_refused_without_repeating_it(place, study_writer, tmp_path):
    with pytest.raises(InputError, match="into the environment") as error:
        resolve(place)
    assert "ter2" not in str(error.value)
    raw = study_writer(tmp_path)
    raw |= {"out": place, "root": place, "pool": [{"path": place}]}
    raw["targets"]["sums"] = {"validation": place, "heldout": place}
    with pytest.raises(InputError) as error:
        parse_study(raw, "test")
    for key in ("out", "root", "pool.0.path", "targets.sums.validation", "targets.sums.heldout"):
        assert f"  {key}: a {place.partition(':')[0]}:// URI with a key or password" in str(error.value)
    assert "ter2" not in str(error.value)


@pytest.mark.parametrize("place", ["s3://b/x?endpoint_override=127.0.0.1:9000&scheme=http", "s3://b?region=eu-west-1"])
def test_options_in_a_uri_are_refused(place, study_writer, tmp_path):
    with pytest.raises(InputError, match="options after a question mark, .* AWS_ENDPOINT_URL"):
        resolve(place)
    with pytest.raises(InputError, match="out: s3://b.* has options after a question mark"):
        parse_study(study_writer(tmp_path, out=place), "test")


@pytest.mark.parametrize("place", ["s3://b/pool/a?.jsonl", "s3://b/a@b:c", "gs://b/x", "hf:owner/name", "a@b/c:d"])
def test_other_places_are_as_they_are_written(place, study_writer, tmp_path):
    study: StudyConfig = parse_study(study_writer(tmp_path, pool=[{"path": place}]), "test")
    assert study.pool[0].path == place
