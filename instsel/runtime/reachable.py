"""What can be known of a Ray session before it starts: whether the cluster that is to be joined answers."""

import os
import re
import socket
import sys
import threading
from pathlib import Path

from instsel.config.study import Resources
from instsel.errors import Problem

ADDRESS = "RAY_ADDRESS"
KEY = "resources.ray_address"
CONNECT_SECONDS = 4.0
HOST_AND_PORT = re.compile(r"\[?(?P<host>[^\s\[\]/]+?)\]?:(?P<port>\d{1,5})")
# Below its temporary folder Ray has sockets, whose paths the system limits: `struct sockaddr_un`.
LONGEST_SOCKET = 103 if sys.platform == "darwin" else 107
SOCKET = "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"


def ray_problems(resources: Resources) -> list[Problem]:
    """Look for what would keep Ray from starting, or from joining the cluster that is named; takes seconds at most."""
    key, address = _address(resources)
    if address is not None and "://" in address:
        return [Problem(key, _of_protocol(address))]
    if address is None or address == "local":
        return _folder_problems()
    match = HOST_AND_PORT.fullmatch(address)
    if match is None:
        return [Problem(key, f"{address} is no address of a cluster; write HOST:PORT, for instance 10.0.0.1:6379")]
    why = why_unreachable(match["host"], int(match["port"]))
    if why is None:
        return []
    advice = "correct the address, or start the cluster"
    if key not in (KEY, ADDRESS):
        advice = "end it by `ray stop`, or write resources.ray_address: local to start a Ray of the study's own"
    return [Problem(key, f"no Ray cluster answers at {address} ({why}); {advice}")]


def why_unreachable(host: str, port: int, seconds: float = CONNECT_SECONDS) -> str | None:
    """Try to connect to a port; return why that fails, None if something answers."""
    result: list[str | None] = []

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=seconds).close()
            result.append(None)
        except (OSError, OverflowError) as error:
            result.append(getattr(error, "strerror", None) or str(error))

    # The resolver of names has no timeout.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(seconds + 1)
    return result[0] if result else f"no answer within {seconds:g} s"


def _address(resources: Resources) -> tuple[str, str | None]:
    """Return the address that Ray will join and what names it, as `ray.init` does; None where it starts a Ray."""
    named = resources.ray_address
    if named not in (None, "auto"):
        return KEY, named
    if os.environ.get(ADDRESS):
        return (ADDRESS, os.environ[ADDRESS]) if os.environ[ADDRESS] != "auto" else _last_cluster()
    return _last_cluster()


def _last_cluster() -> tuple[str, str | None]:
    """Return the cluster that `ray start` noted on this machine; Ray joins it where no other is named."""
    note = Path(_temporary_folder()[1], "ray", "ray_current_cluster")
    try:
        return str(note), note.read_text(encoding="utf-8").strip() or None
    except OSError:
        return KEY, None


def _temporary_folder() -> tuple[str, str]:
    """Return where Ray's folder will be, and the variable that says so."""
    for name in ("RAY_TMPDIR", "TMPDIR"):
        if name in os.environ and (name == "RAY_TMPDIR" or sys.platform.startswith("linux")):
            return name, os.environ[name]
    return "TMPDIR", "/tmp"  # noqa: S108


def _folder_problems() -> list[Problem]:
    name, folder = _temporary_folder()
    length = len(os.fsencode(folder.rstrip("/") + SOCKET))
    if length <= LONGEST_SOCKET:
        return []
    most = LONGEST_SOCKET - len(SOCKET)
    return [
        Problem(
            name,
            f"{folder} is too long: Ray's sockets below it would have paths of {length} bytes, and the system allows "
            f"{LONGEST_SOCKET}; set RAY_TMPDIR to a folder of at most {most} bytes, such as /tmp",
        )
    ]


def _of_protocol(address: str) -> str:
    if address.startswith(("http://", "https://")):
        return f"{address} is the address of a job server; run `instsel submit --address {address}`, or remove it here"
    return (
        f"{address} is the address of Ray Client, through which a study cannot run; run the command on a machine of "
        "the cluster and give HOST:PORT of its head, such as 10.0.0.1:6379, or `instsel submit` the study"
    )
