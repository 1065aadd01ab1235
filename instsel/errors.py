"""The two ways a study can end badly, told apart so that the command can say whose turn it is."""


class InputError(Exception):
    """The user's input is wrong: a key, a file or a row. The message names it and what to change (exit status 2)."""


class StudyError(Exception):
    """The study failed while it ran: a full disk, a dead worker, a diverged run (exit status 1)."""


class Diverged(StudyError):
    """A training run diverged, and would again: a loss, gradient, weight or moment is not finite."""
