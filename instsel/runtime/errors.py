"""Errors that happened in a worker, told in the words of their cause."""

from collections.abc import Iterator
from contextlib import contextmanager

from ray.exceptions import RayError

from instsel.console import Terminal, log
from instsel.errors import InputError, StudyError

RAY_DATA_ADVICE = "\nFailed to apply UDF transform after "


@contextmanager
def clear_errors() -> Iterator[None]:
    """Raise what a worker raised: InputError and StudyError as they were, anything else as a StudyError."""
    try:
        yield
    except (InputError, StudyError) as error:
        raise _plain(error) from error
    except Exception as error:
        known = _known(error)
        if known is not None:
            raise known from error
        if not _of_ray(error):
            raise
        log.exception("a worker failed")
        raise StudyError(f"a worker failed: {_root(error)}; the log file has the details") from error


def _known(error: BaseException | None) -> InputError | StudyError | None:
    """The first InputError or StudyError among an error and its causes."""
    for cause in _causes(error):
        if isinstance(cause, InputError | StudyError):
            return _plain(cause)
    return None


def _plain(error: InputError | StudyError) -> InputError | StudyError:
    """The error without what Ray wraps around it: its class is a mixture of RayTaskError and the error's own."""
    inner = getattr(error, "cause", None)
    found = inner if isinstance(inner, InputError | StudyError) else error
    return type(found)(_text(found))


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


def _root(error: BaseException) -> str:
    *_, last = _causes(error)
    lines = _text(last).strip().splitlines()
    return f"{type(last).__name__}: {lines[-1]}" if lines else type(last).__name__


def _text(error: BaseException) -> str:
    return str(error).partition(RAY_DATA_ADVICE)[0]


class Shortage:
    """Tells that workers ran out of memory: once, and again only if batches have to be half of what was told then."""

    def __init__(self, key: str, token_budget: int, terminal: Terminal) -> None:
        """Start with what the study file says.

        Args:
            key: of the study file.
            token_budget: its value, most padded tokens of a batch.
            terminal: where it is told.
        """
        self.key, self.asked, self.told = key, token_budget, token_budget
        self.recompute = False
        self.terminal = terminal

    def look(self, token_budget: int, recompute: bool = False) -> None:
        """Take in the budget that an actor has now, and whether it recomputes activations."""
        if 2 * token_budget > self.told and recompute <= self.recompute:
            return
        self.told, self.recompute = min(token_budget, self.told), recompute or self.recompute
        self.terminal.say(
            f"a worker ran out of memory: batches of at most {self.told} tokens from here "
            f"({self.key} is {self.asked}){', activations recomputed' if self.recompute else ''}"
        )
