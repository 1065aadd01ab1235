"""The lease on a study folder: one command at a time, whichever machine it is on, and none that is dead."""

import signal
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from instsel.errors import InputError, StudyError
from instsel.io.store import Folder
from instsel.study import lease as leases
from instsel.study.lease import LEASE, Holder, Lease, hold_lease

HOLDING = (
    "import sys, time\n"
    "from instsel.io.store import Folder\n"
    "from instsel.study.lease import hold_lease\n"
    "with hold_lease(Folder.at(sys.argv[1]), print):\n"
    "    print('held', flush=True)\n"
    "    time.sleep(600)\n"
)


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("BEAT_SECONDS", 0.1), ("STALE_SECONDS", 1.0), ("POLL_SECONDS", 0.05)):
        monkeypatch.setattr(leases, name, seconds)


def _hold_elsewhere(out: str) -> "subprocess.Popen[str]":
    running = subprocess.Popen([sys.executable, "-c", HOLDING, out], stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    assert running.stdout.readline() == "held\n"
    return running


def _of_another_machine() -> Holder:
    return Holder.this_process().model_copy(update={"machine": "elsewhere", "host": "far", "pid": 7})


@pytest.mark.process
def test_fault_03_a_second_command_is_refused_and_a_killed_one_is_taken_over(tmp_path: Path) -> None:
    running, folder = _hold_elsewhere(str(tmp_path)), Folder.at(tmp_path)
    try:
        with pytest.raises(InputError, match=f"out: .* is being written to by process {running.pid} on "):
            with hold_lease(folder, print):
                pass
        owner = folder.read_json(LEASE)["owner"]
        (folder / "prepare").write("whole", b"1")
        (tmp_path / f"prepare/.x.{owner}@1234.part").write_bytes(b"half")
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()
        assert running.stdout is not None
        running.stdout.close()
    said: list[str] = []
    with hold_lease(folder, said.append) as lease:
        assert folder.read_json(LEASE)["owner"] == lease.holder.owner != owner
        assert [path.name for path in (tmp_path / "prepare").iterdir()] == ["whole"]
    assert "was stale, that of process " in said[0]
    assert not folder.exists(LEASE)


def test_fault_03_of_many_at_once_one_gets_it(tmp_path: Path) -> None:
    folder, barrier = Folder.at(tmp_path), threading.Barrier(8)
    folder.write(LEASE, _of_another_machine().model_copy(update={"machine": leases._machine()}).to_bytes())

    def take(_: int) -> bool:
        barrier.wait()
        try:
            leases._take(folder, lambda text: None)
        except InputError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(take, range(8))) == 1


@pytest.mark.parametrize("place", ["local", "memory", pytest.param("s3", marks=pytest.mark.process)])
@pytest.mark.parametrize("content", ["holder", "garbage"])
@pytest.mark.usefixtures("_quick")
def test_fault_03_a_lease_of_another_machine_is_watched(
    place: str, content: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if place == "s3":
        request.getfixturevalue("object_store")
    uris = {"local": str(tmp_path), "memory": f"memory://{uuid.uuid4().hex}", "s3": "s3://studies/leased"}
    folder, said = Folder.at(uris[place]), list[str]()
    holder = _of_another_machine()
    folder.write(LEASE, holder.to_bytes() if content == "holder" else b"\x00{")
    with hold_lease(folder, said.append) as lease:
        assert folder.read_json(LEASE)["owner"] == lease.holder.owner
    assert "taken over" in said[-1]
    assert not folder.exists(LEASE)
    # The same one, alive.
    other = Lease(replace(folder, owner=holder.owner), holder)
    folder.write(LEASE, holder.to_bytes())
    ended = threading.Event()
    beating = threading.Thread(target=leases._beat, args=(other, ended, False))
    beating.start()
    try:
        with pytest.raises(InputError, match="is being written to by process 7 on far"), hold_lease(folder, print):
            pass
    finally:
        ended.set()
        beating.join()


@pytest.mark.usefixtures("_quick")
def test_fault_03_a_command_whose_lease_was_taken_over_ends(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    with pytest.raises(StudyError, match="another one has taken the folder over: process 7 on far"):
        with hold_lease(folder, print):
            folder.write(LEASE, _of_another_machine().to_bytes())
            time.sleep(30)
    assert folder.read_json(LEASE)["host"] == "far"


def test_fault_03_partial_files_are_removed_by_their_owner_alone(tmp_path: Path) -> None:
    mine, theirs = (replace(Folder.at(tmp_path), owner=owner) for owner in ("a" * 12, "b" * 12))
    with theirs.writer("shard") as stream:
        stream.write(b"1")
        mine.clean()
        Folder.at(tmp_path).clean()
    assert mine.read("shard") == b"1"


@pytest.mark.process
def test_fault_03_a_store_decides_which_of_two_writers_is_first(object_store: object) -> None:
    folder, barrier = Folder.at("s3://studies/decided"), threading.Barrier(4)

    def create(number: int) -> bool:
        barrier.wait()
        return folder._put_once("x", str(number).encode()) and folder.read("x") == str(number).encode()

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(create, range(4))) == 1
