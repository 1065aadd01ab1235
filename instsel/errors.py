"""Exceptions: errors in the user's input (exit status 2) and failures of a study (exit status 1)."""

import re
from dataclasses import dataclass

_KEY = re.compile(r"[A-Za-z_][\w-]*(\.[\w-]+)*")


class InputError(Exception):
    """A key, a file or a row of the user is wrong; the message names it and what to change (exit status 2)."""


class StudyError(Exception):
    """The study failed: a full disk, a dead worker, a diverged run (exit status 1)."""


class Diverged(StudyError):
    """A loss, gradient, weight or moment of a training run is not finite; a retry would diverge again."""


@dataclass(frozen=True)
class Problem:
    """Something that would end a study later, or may; `instsel.pipeline.preflight` looks for these before a run.

    Attributes:
        key: of the study file, or the environment variable, that has to change.
        message: what is wrong and what to write instead.
        is_fatal: whether the study cannot run; otherwise it is only mentioned.
    """

    key: str
    message: str
    is_fatal: bool = True

    @classmethod
    def of(cls, error: InputError, key: str) -> "Problem":
        """Return an error as a problem; its message starts with a key, or is about `key`."""
        named, colon, message = str(error).partition(": ")
        return cls(named, message) if colon and _KEY.fullmatch(named) else cls(key, str(error))

    def __str__(self) -> str:
        """Return the line of a list of problems."""
        return f"{self.key}: {self.message}"
