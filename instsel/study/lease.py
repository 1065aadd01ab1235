"""The lease on a study folder: one command writes to it at a time, and another one is told which.

`lease.json` says who holds it. A command that finds one of its own machine looks whether that process is alive. For one
of another machine it watches the file, which its holder writes again every `BEAT_SECONDS`: no two clocks are compared.
"""

import json
import os
import shlex
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import BaseModel, ValidationError

from instsel.console import log
from instsel.errors import InputError, StudyError
from instsel.io.store import Folder

LEASE = "lease.json"
BEAT_SECONDS = 15.0
# An NFS client may show a file as it was a minute ago.
STALE_SECONDS = 120.0
POLL_SECONDS = 1.0


class Holder(BaseModel):
    """Who holds the lease.

    Attributes:
        owner: id of the command, which its partial files carry.
        host: name of its machine.
        pid: of its process.
        machine: boot of the machine and its space of process ids, where pid means something.
        process: when the process was started, in ticks since the boot: another process may get the same pid.
        command: as it was typed.
        since: when it took the lease, in UTC.
        beat: counts up while it is alive.
    """

    owner: str
    host: str
    pid: int
    machine: str
    process: str
    command: str
    since: str
    beat: int = 0

    @classmethod
    def this_process(cls) -> "Holder":
        """Describe this process as a new holder."""
        return cls(
            owner=uuid.uuid4().hex[:12],
            host=socket.gethostname(),
            pid=os.getpid(),
            machine=_machine(),
            process=_process(os.getpid()),
            command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            since=time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        )

    def to_bytes(self) -> bytes:
        """Return the content of its file."""
        return (self.model_dump_json(indent=2) + "\n").encode()

    def is_here(self) -> bool:
        """Return whether its process is, or was, one of this machine."""
        return bool(self.machine) and self.machine == _machine()

    def is_alive(self) -> bool:
        """Return whether its process runs; for a process of this machine."""
        return self.process != "" and _process(self.pid) == self.process

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since} ({self.command})"


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _process(pid: int) -> str:
    """Return when a process was started; empty where it does not run."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    # A zombie has ended and waits for its parent.
    return "" if fields[0] in {"Z", "X"} else fields[19]


@dataclass
class Lease:
    """A lease that this process holds.

    Attributes:
        folder: of the study; files that are written through it carry the owner's id.
        holder: this process.
        lost_to: who has taken it over, if somebody has.
    """

    folder: Folder
    holder: Holder
    lost_to: str | None = None

    def require(self) -> None:
        """Raise if the lease was lost.

        Raises:
            StudyError: another command has taken it over.
        """
        if self.lost_to is not None:
            raise StudyError(
                f"{self.folder}: this command was not heard of for {STALE_SECONDS:.0f} s, and another one has taken "
                f"the folder over: {self.lost_to}; what was finished is kept"
            )

    def beat(self) -> None:
        """Write the lease again, and notice if it was taken over."""
        try:
            there = self.folder.read(LEASE)
        except FileNotFoundError:
            self.folder.create_once(LEASE, self.holder.to_bytes())
            return
        current = _parse(there)
        if current is None or current.owner != self.holder.owner:
            self.lost_to = "an unknown command" if current is None else str(current)
            return
        self.holder.beat += 1
        self.folder.write(LEASE, self.holder.to_bytes())

    def release(self) -> None:
        """Delete the lease, unless it is another one's by now."""
        with suppress(FileNotFoundError):
            current = _parse(self.folder.read(LEASE))
            if current is not None and current.owner == self.holder.owner:
                self.folder.delete(LEASE)


@contextmanager
def hold_lease(folder: Folder, say: Callable[[str], None]) -> Iterator[Lease]:
    """Hold the lease on a study folder while the block runs.

    If another command takes it over meanwhile, since this process was stopped or cut off for `STALE_SECONDS`, the block
    is interrupted.

    Raises:
        InputError: another command holds it.
        StudyError: another command has taken it over.
    """
    lease = _take(folder, say)
    ended = threading.Event()
    in_main = threading.current_thread() is threading.main_thread()
    thread = threading.Thread(target=_beat, args=(lease, ended, in_main), name="lease", daemon=True)
    try:
        if folder.is_local:
            # Whoever left them has ended, or could not have lost the lease.
            lease.folder.clean(everyone=True)
        thread.start()
        yield lease
        lease.require()
    except KeyboardInterrupt:
        lease.require()
        raise
    finally:
        ended.set()
        if thread.is_alive():
            thread.join(BEAT_SECONDS)
        lease.release()


def _beat(lease: Lease, ended: threading.Event, in_main: bool) -> None:
    while not ended.wait(BEAT_SECONDS):
        try:
            lease.beat()
        # A store that is away is waited for by the stages, which say so.
        except (OSError, InputError, StudyError) as error:
            log.warning("the lease could not be renewed: %s", error)
        if lease.lost_to is not None:
            log.error("the lease was taken over by %s", lease.lost_to)
            if in_main:
                os.kill(os.getpid(), signal.SIGINT)
            return


def _take(folder: Folder, say: Callable[[str], None]) -> Lease:
    holder = Holder.this_process()
    lease = Lease(replace(folder, owner=holder.owner), holder)
    while not lease.folder.create_once(LEASE, holder.to_bytes()):
        seen = _read(folder)
        if seen is None:
            continue
        current = _parse(seen)
        _await_stale(folder, seen, current, say)
        if _remove(lease.folder, seen):
            whose = "one that cannot be read" if current is None else f"that of {current}"
            say(f"the lease on {folder} was stale, {whose}: taken over")
    return lease


def _await_stale(folder: Folder, seen: bytes, current: Holder | None, say: Callable[[str], None]) -> None:
    """Return when a lease is stale or gone.

    Raises:
        InputError: its holder is alive.
    """
    if current is not None and current.is_here():
        if current.is_alive():
            raise _held(folder, current)
        return
    say(
        f"{folder}/{LEASE}: {'it cannot be read' if current is None else f'held by {current}'}; waiting for up to "
        f"{STALE_SECONDS:.0f} s to see whether that command still runs"
    )
    ends = time.monotonic() + STALE_SECONDS
    while time.monotonic() < ends:
        time.sleep(POLL_SECONDS)
        now = _read(folder)
        if now is None:
            return
        if now != seen:
            holder = _parse(now)
            raise _held(folder, holder or current)


def _held(folder: Folder, holder: Holder | None) -> InputError:
    who = "another command" if holder is None else str(holder)
    return InputError(
        f"out: {folder} is being written to by {who}; one command at a time may do so: wait for its end, end it, or "
        "give this study another `out`"
    )


def _remove(folder: Folder, seen: bytes) -> bool:
    """Remove a stale lease, and return whether it was still that one."""
    if not folder.is_local:
        if _read(folder) != seen:
            return False
        folder.delete(LEASE)
        return True
    # Of two commands that find it stale, one gets it by the rename. A lease that was taken meanwhile goes back.
    aside = f".{LEASE}.{folder.owner}@stale.part"
    try:
        os.rename(f"{folder.path}/{LEASE}", f"{folder.path}/{aside}")
    except FileNotFoundError:
        return False
    is_same = folder.read(aside) == seen
    if not is_same:
        with suppress(FileExistsError):
            os.link(f"{folder.path}/{aside}", f"{folder.path}/{LEASE}")
    folder.delete(aside)
    return is_same


def _read(folder: Folder) -> bytes | None:
    try:
        return folder.read(LEASE)
    except FileNotFoundError:
        return None


def _parse(data: bytes) -> Holder | None:
    """Return the holder that a file names; None where it is no lease."""
    try:
        return Holder.model_validate(json.loads(data))
    except (ValueError, ValidationError):
        return None
