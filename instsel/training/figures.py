"""What a step and an epoch of training were, for processes that look on and need no torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """What one optimizer step was.

    Attributes:
        number: steps done, this one and those of earlier epochs included.
        of: steps of the whole run.
        rows: rows of all workers in it.
        tokens: tokens of all workers in it.
        loss: mean over its rows.
        learning_rate: of the step.
    """

    number: int
    of: int
    rows: int
    tokens: int
    loss: float
    learning_rate: float


@dataclass(frozen=True)
class EpochMetrics:
    """What one epoch was.

    Attributes:
        epoch: its number, from 1.
        step: optimizer steps so far, those of earlier epochs included.
        loss: mean over its rows.
        learning_rate: mean over its steps.
        tokens: tokens of all workers in it.
        seconds: its duration in this process, without checkpoints; of an epoch gone on with, only the rest of it.
    """

    epoch: int
    step: int
    loss: float
    learning_rate: float
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Begun:
    """Sums over the steps of an epoch so far, which a checkpoint inside it carries on.

    Attributes:
        loss: of the rows' losses.
        learning_rate: of the steps' learning rates.
        tokens: of all workers.
    """

    loss: float = 0.0
    learning_rate: float = 0.0
    tokens: int = 0

    def plus(self, step: Step) -> "Begun":
        """With one more step."""
        return Begun(
            self.loss + step.loss * step.rows, self.learning_rate + step.learning_rate, self.tokens + step.tokens
        )
