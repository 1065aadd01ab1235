"""Exceptions: errors in the user's input (exit status 2) and failures of a study (exit status 1)."""


class InputError(Exception):
    """A key, a file or a row of the user is wrong; the message names it and what to change (exit status 2)."""


class StudyError(Exception):
    """The study failed: a full disk, a dead worker, a diverged run (exit status 1)."""


class Diverged(StudyError):
    """A loss, gradient, weight or moment of a training run is not finite; a retry would diverge again."""
