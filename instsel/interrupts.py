"""SIGTERM and Ctrl-C, told apart, raised where the command waits."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Terminated(KeyboardInterrupt):
    """The process was sent SIGTERM: by Slurm, Kubernetes, `ray job stop` or `kill`."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise `Terminated` on SIGTERM and KeyboardInterrupt on Ctrl-C while the block runs.

    Ray replaces the handlers when it starts, so the block is entered after that. A second SIGTERM is ignored while
    the block ends: the first one is being obeyed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []

    def terminate(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        received.append(number)
        raise Terminated

    handlers: dict[signal.Signals, Any] = {signal.SIGTERM: terminate, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    except KeyboardInterrupt as error:
        # `ray.get` raises a KeyboardInterrupt of its own, whichever signal broke it off.
        if received and not isinstance(error, Terminated):
            raise Terminated from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def is_sigterm(error: BaseException) -> bool:
    """Return whether an error is SIGTERM's, also as Ray raises it where its own handler is in place."""
    return isinstance(error, Terminated) or (isinstance(error, SystemExit) and error.code == signal.SIGTERM)
