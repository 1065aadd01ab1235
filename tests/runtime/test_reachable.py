"""What is known of a Ray session before it starts: addresses, ports that are closed, and the paths of its sockets."""

import socket
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from instsel.config.study import Resources
from instsel.runtime import reachable
from instsel.runtime.reachable import SOCKET, ray_problems, why_unreachable


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Look for no cluster of this machine."""
    for name in ("RAY_ADDRESS", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/no-such-folder")


@pytest.fixture
def open_port() -> Iterator[int]:
    """A port at which something answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def closed_port() -> int:
    """A port at which nothing answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def lines(address: str | None = None) -> list[str]:
    return [str(problem) for problem in ray_problems(Resources(ray_address=address))]


def test_a_cluster_that_answers_has_no_problem(open_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert lines(f"127.0.0.1:{open_port}") == []
    assert lines(f"localhost:{open_port}") == []
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{open_port}")
    assert lines() == lines("auto") == []


def test_a_cluster_that_is_gone_is_told_in_seconds(closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    start = time.monotonic()
    told = f"no Ray cluster answers at 127.0.0.1:{closed_port} (Connection refused); correct the address, or start the"
    (line,) = lines(f"127.0.0.1:{closed_port}")
    assert line.startswith(f"resources.ray_address: {told}")
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{closed_port}")
    (line,) = lines()
    assert line.startswith(f"RAY_ADDRESS: {told}")
    assert time.monotonic() - start < 5


def test_the_address_of_the_study_comes_before_that_of_the_environment(
    open_port: int, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{closed_port}")
    assert lines(f"127.0.0.1:{open_port}") == lines("local") == []
    assert lines("auto")[0].startswith("RAY_ADDRESS: ")


def test_a_cluster_that_ray_noted_and_that_is_gone_is_told_with_the_note(
    open_port: int, closed_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(reachable, "LONGEST_SOCKET", 1000)
    note = tmp_path / "ray/ray_current_cluster"
    note.parent.mkdir()
    note.write_text(f"127.0.0.1:{closed_port}\n")
    for line in (*lines(), *lines("auto")):
        assert line.startswith(f"{note}: no Ray cluster answers at 127.0.0.1:{closed_port}")
        assert line.endswith(
            "end it by `ray stop`, or write resources.ray_address: local to start a Ray of the study's own"
        )
    assert lines("local") == []
    note.write_text(f"127.0.0.1:{open_port}")
    assert lines() == []


def test_a_machine_that_is_silent_or_unknown_is_told_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = lines("no-such-host.invalid:6379")
    assert line.startswith("resources.ray_address: no Ray cluster answers at no-such-host.invalid:6379 (")
    # A resolver that hangs, and fails long after nobody waits for it.
    hang = threading.Event()

    def resolve(*_: Any, **__: Any) -> None:
        hang.wait(30)
        raise socket.gaierror

    monkeypatch.setattr(socket, "create_connection", resolve)
    start = time.monotonic()
    assert why_unreachable("10.0.0.1", 6379, 0.1) == "no answer within 0.1 s"
    assert time.monotonic() - start < 3
    hang.set()


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("ray://head:10001", "ray://head:10001 is the address of Ray Client, through which a study cannot run"),
        (
            "http://head:8265",
            "http://head:8265 is the address of a job server; run `instsel submit --address http://head",
        ),
        ("head", "head is no address of a cluster; write HOST:PORT, for instance 10.0.0.1:6379"),
        ("head:port", "head:port is no address of a cluster"),
        ("head:123456", "head:123456 is no address of a cluster"),
        ("", " is no address of a cluster"),
        ("127.0.0.1:99999", "no Ray cluster answers at 127.0.0.1:99999 ("),
    ],
)
def test_an_address_that_cannot_be_joined_is_told(address: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = lines(address)
    assert line.startswith(f"resources.ray_address: {told}")
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
        (line,) = lines()
        assert line.startswith(f"RAY_ADDRESS: {told}")


@pytest.mark.parametrize("name", ["RAY_TMPDIR", "TMPDIR"])
def test_a_folder_whose_sockets_would_have_too_long_paths_is_told(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR")
    monkeypatch.setattr(reachable, "LONGEST_SOCKET", 107)
    monkeypatch.setattr("sys.platform", "linux")
    fits = "/" + "a" * (106 - len(SOCKET))
    monkeypatch.setenv(name, fits)
    assert lines() == []
    monkeypatch.setenv(name, f"{fits}b")
    (line,) = lines()
    assert line.startswith(
        f"{name}: {fits}b is too long: Ray's sockets below it would have paths of 108 bytes, and the"
    )
    assert line.endswith(f"set RAY_TMPDIR to a folder of at most {107 - len(SOCKET)} bytes, such as /tmp")
    assert lines("local") == [line]
    # Bytes and not letters.
    monkeypatch.setenv(name, "/" + "é" * (len(fits) // 2 + 1))
    assert len(lines()) == 1


def test_a_path_of_a_socket_is_as_long_as_rays() -> None:
    session = datetime(2026, 1, 1, tzinfo=timezone.utc).strftime("session_%Y-%m-%d_%H-%M-%S_%f") + "_4194304"
    assert f"/ray/{session}/sockets/plasma_store" == SOCKET
