"""Run code that a model wrote: in a child process without network, with limits of time, memory and files.

Linux only: the child has user, network and process namespaces of its own. docs/security.md says what it can still do.
"""

import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from instsel.errors import InputError

ALLOWED = "INSTSEL_RUN_CODE"
"""Environment variable without which a written task refuses to run code; `evaluation.run_code` sets it."""

_BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)
_NO_NAMESPACE = 77

# Runs in the child. The program gets no way back: only the child's own last line says that every test passed, so that
# a program which ends early (`os._exit(0)`) does not pass. Limits come after the namespaces: in these even root cannot
# raise them again.
_CHILD = f"""
import ctypes, os, resource, signal, sys
seconds, memory, file_bytes, token = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.stdin.readline()
libc = ctypes.CDLL(None, use_errno=True)
NEWUSER, NEWNET, NEWPID, PDEATHSIG = 0x10000000, 0x40000000, 0x20000000, 1
if libc.unshare(NEWUSER | NEWNET | NEWPID):
    sys.exit({_NO_NAMESPACE})
child = os.fork()
if child:
    _, status = os.waitpid(child, 0)
    os._exit(os.waitstatus_to_exitcode(status) & 0x7f)
libc.prctl(PDEATHSIG, signal.SIGKILL)
for limit, value in (
    (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, memory), (resource.RLIMIT_FSIZE, file_bytes),
    (resource.RLIMIT_NOFILE, 64), (resource.RLIMIT_NPROC, 64), (resource.RLIMIT_CORE, 0),
):
    resource.setrlimit(limit, (value, value))
program = sys.stdin.read()
out, sys.stdout = os.dup(1), open(os.devnull, "w")
os.dup2(sys.stdout.fileno(), 1)
exec(compile(program, "program", "exec"), {{"__name__": "__main__"}})
os.write(out, token.encode())
"""


@dataclass(frozen=True)
class Limits:
    """What a program may use.

    Attributes:
        seconds: of wall-clock time, and of the processor.
        memory_bytes: of address space.
        file_bytes: of each file that it writes.
    """

    seconds: int = 10
    memory_bytes: int = 1 << 30
    file_bytes: int = 1 << 20


def extract_code(response: str) -> str:
    """Return the first fenced block of a response, or all of it where there is none."""
    block = _BLOCK.search(response)
    return block[1] if block else response


def passes(code: str, tests: Sequence[str], limits: Limits | None = None) -> bool:
    """Run a program and then its tests; say whether all of it ran without an exception, within the limits.

    Args:
        code: Python source.
        tests: Python sources, run one after another in the program's namespace.
        limits: by default those of `Limits`.

    Raises:
        InputError: this machine gives the child no namespaces of its own, so nothing is run.
    """
    limit = limits or Limits()
    token = secrets.token_hex(16)
    program = "\n".join([code, *tests])
    with tempfile.TemporaryDirectory() as folder:
        arguments = [str(limit.seconds), str(limit.memory_bytes), str(limit.file_bytes)]
        with subprocess.Popen(
            [sys.executable, "-I", "-c", _CHILD, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={},
            start_new_session=True,
        ) as child:
            try:
                out, _ = child.communicate(f"{token}\n{program}".encode(errors="replace"), timeout=limit.seconds)
            except subprocess.TimeoutExpired:
                out = b""
            finally:
                _end(child)
    if child.returncode == _NO_NAMESPACE:
        raise InputError(
            "code that a model wrote is not run: this machine lets no process cut itself off from the network "
            "(user namespaces are off); score the target by another metric, or run on a machine that has them"
        )
    return out.decode() == f"{token}\n"


def require_allowed() -> None:
    """Check that running code is asked for.

    Raises:
        InputError: it is not.
    """
    if os.environ.get(ALLOWED) != "1":
        raise InputError(
            f"scoring by code runs what a model wrote; allow it by `evaluation.run_code: true`, for lm_eval {ALLOWED}=1"
        )


def _end(child: "subprocess.Popen[bytes]") -> None:
    # Without an error where it has ended by itself.
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
