"""Errors of workers, raised in the driver with the message of their cause."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from ray.data.exceptions import SystemException
from ray.exceptions import (
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    RayActorError,
    RayError,
    RaySystemError,
    UnserializableException,
    WorkerCrashedError,
)

from instsel.console import Terminal, log
from instsel.errors import InputError, StudyError

# What is lost with a process or a machine; the next run may well have it.
LOST = (LocalRayletDiedError, NodeDiedError, ObjectLostError, RayActorError, RaySystemError, WorkerCrashedError)
LOST_IN_TEXT = re.compile(r"\b(Actor|LocalRaylet|Node|Owner)DiedError|\bWorkerCrashedError")
RAY_DATA_ADVICE = "\nFailed to apply UDF transform after "


@contextmanager
def clear_errors() -> Iterator[None]:
    """Raise what a worker raised: InputError and StudyError unchanged, anything else as a StudyError."""
    try:
        yield
    except (InputError, StudyError) as error:
        raise _plain(error) from error
    except Exception as error:
        user_error = _user_error(error)
        if user_error is not None:
            raise user_error from error
        if not _of_ray(error):
            raise
        log.exception("a worker failed")
        is_lost = any(map(_is_loss, _causes(error)))
        kept = "; what is finished is kept: run the same command again to resume" if is_lost else ""
        raise StudyError(f"a worker failed: {_root(error)}{kept}; the log file has the details") from error


def _user_error(error: BaseException | None) -> InputError | StudyError | None:
    """Return the first InputError or StudyError among an error and its causes."""
    for cause in _causes(error):
        if isinstance(cause, InputError | StudyError):
            return _plain(cause)
    return None


def _plain(error: InputError | StudyError) -> InputError | StudyError:
    """Return the error without Ray's wrapping, whose class derives from both RayTaskError and the error's class."""
    inner = getattr(error, "cause", None)
    plain = inner if isinstance(inner, InputError | StudyError) else error
    return type(plain)(_text(plain))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        failures = getattr(error, "worker_failures", None)
        inner = next(iter(failures.values()), None) if failures else None
        error = getattr(error, "cause", None) or inner or error.__cause__


def _of_ray(error: BaseException) -> bool:
    return any(isinstance(cause, RayError) or type(cause).__module__.startswith("ray.") for cause in _causes(error))


def _is_loss(error: BaseException) -> bool:
    """Return whether a process or a machine was lost; of an error that Ray could not pickle there is only the text."""
    return isinstance(error, LOST) or (
        isinstance(error, UnserializableException) and LOST_IN_TEXT.search(str(error)) is not None
    )


def last_line(error: BaseException) -> str:
    """Return the last line of an error's message, where Ray puts the reason, or the error's type if it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _root(error: BaseException) -> str:
    # Ray Data names an empty error of its own as the cause of what happened.
    *_, last = error, *(cause for cause in _causes(error) if not isinstance(cause, SystemException))
    lines = _text(last).strip().splitlines()
    return f"{type(last).__name__}: {lines[-1]}" if lines else type(last).__name__


def _text(error: BaseException) -> str:
    return str(error).partition(RAY_DATA_ADVICE)[0]


class Shortage:
    """Reports that workers ran out of memory: once, and again when batches shrink to half of those reported last."""

    def __init__(self, key: str, token_budget: int, terminal: Terminal) -> None:
        """Start with what the study file says.

        Args:
            key: of the study file.
            token_budget: its value, most padded tokens of a batch.
            terminal: where the reports are printed.
        """
        self._key, self._configured, self._reported = key, token_budget, token_budget
        self._recompute = False
        self._terminal = terminal

    def look(self, token_budget: int, recompute: bool = False) -> None:
        """Compare with the budget that an actor has now, and whether it recomputes activations."""
        if 2 * token_budget > self._reported and recompute <= self._recompute:
            return
        self._reported, self._recompute = min(token_budget, self._reported), recompute or self._recompute
        self._terminal.say(
            f"a worker ran out of memory: batches of at most {self._reported} tokens from here "
            f"({self._key} is {self._configured}){', activations recomputed' if self._recompute else ''}"
        )
