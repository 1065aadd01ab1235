"""What selection methods read about the rows of a world: gradients, influence, hidden states, losses.

All of it comes from the functions that the stages of a study call. A new form of influence is an entry of `FORMS`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from torch import nn

from benchmarks.skills.model import TOKEN_BUDGET, Moments, TuneSettings, encode, prompt_of, tune, without_end
from benchmarks.skills.world import World
from instsel import CountSketch, GradientEngine, attribute, select
from instsel.attribution import contrast
from instsel.attribution.kernel import side_by_side, whitening
from instsel.attribution.scores import second_moment
from instsel.data.batching import BatchFitter, Example
from instsel.evaluation.scoring import answer_likelihoods, heldout_losses
from instsel.models.hidden_states import pooled_hidden_states

ValueT = TypeVar("ValueT")

# The warmup draws other rows and matrices than the arm "random" of the same seed.
_WARMUP_SEED = 100_000
_ANSWERS_STREAM = 3

OTHER_ANSWERS = 4
"""That a validation row's own answer is contrasted with."""


@dataclass(frozen=True)
class SignalSettings:
    """How what methods read is computed.

    Attributes:
        warmup: training of the LoRA at whose end gradients are taken, on a random draw of as many rows as an arm takes.
        dim: of the gradient sketch.
        damping: of the Fisher matrix.
    """

    warmup: TuneSettings
    dim: int
    damping: float


class Signals:
    """What methods read about the rows of a world, each computed when it is first asked for.

    Attributes:
        world: the rows.
        budget: rows that an arm takes.
        seed: of the warmup, the sketch and all methods that draw.
        pool: the rows of the pool, encoded.
        validation: the validation rows, encoded.
        seconds: CPU seconds of each signal by name, without those of the signals that it reads.
    """

    def __init__(self, world: World, base: nn.Module, settings: SignalSettings, budget: int, seed: int) -> None:
        self.world, self.budget, self.seed = world, budget, seed
        self._base, self._settings = base, settings
        self.pool = [encode(row) for row in world.pool]
        self.validation = [encode(row) for row in world.validation]
        self.seconds: dict[str, float] = {}
        self._values: dict[str, Any] = {}

    @property
    def targets(self) -> list[str]:
        """The target of each validation row, (m,)."""
        return [row.skill for row in self.world.validation]

    @property
    def skills(self) -> list[str]:
        """The skill that each row of the pool names, (n,)."""
        return [row.skill for row in self.world.pool]

    @property
    def answer_tokens(self) -> np.ndarray:
        """The symbols of each answer of the pool, int64 (n,)."""
        return np.array([len(row.answer) for row in self.world.pool])

    def warm(self) -> tuple[nn.Module, Moments]:
        """Return the model after a short training on a random draw of the pool, and AdamW's moments."""

        def train() -> tuple[nn.Module, Moments]:
            draw = select("random", len(self.pool), self.budget, seed=self.seed + _WARMUP_SEED)
            rows = [self.pool[index] for index in draw.indices.tolist()]
            return tune(self._base, rows, self._settings.warmup, self.seed + _WARMUP_SEED)

        return self._once("warmup", train)

    def adam_features(self) -> np.ndarray:
        """Return sketched Adam directions of the pool at the warm model, float32 (n, dim)."""
        model, moments = self.warm()
        return self._once("directions of the pool", lambda: self._engine(model, moments).features(self.pool))

    def plain_features(self) -> np.ndarray:
        """Return sketched gradients of the pool at the warm model, float32 (n, dim)."""
        model, _ = self.warm()
        return self._once("gradients of the pool", lambda: self._engine(model, None).features(self.pool))

    def validation_features(self) -> np.ndarray:
        """Return sketched gradients of the validation rows at the warm model, float32 (m, dim)."""
        model, _ = self.warm()
        return self._once("gradients of validation rows", lambda: self._engine(model, None).features(self.validation))

    def contrast_features(self) -> np.ndarray:
        """Return sketched contrast gradients of the validation rows at the warm model, float32 (m, dim).

        Other answers are those of `OTHER_ANSWERS` other validation rows of the same target, drawn by the seed.
        """
        model, _ = self.warm()

        def compute() -> np.ndarray:
            answers, items = self._answers()
            losses = heldout_losses(model, answers, fitter=BatchFitter.forward(TOKEN_BUDGET))
            return contrast(self._engine(model, None).features(answers), -losses, items)

        return self._once("contrast gradients of validation rows", compute)

    def _answers(self) -> tuple[list[Example], list[int]]:
        """Return each validation row with its own answer first and then with others, and the row of each."""
        draw = np.random.default_rng([_ANSWERS_STREAM, self.seed])
        examples, items = [], []
        for index, row in enumerate(self.world.validation):
            others = sorted({each.answer for each in self.world.validation if each.skill == row.skill} - {row.answer})
            drawn = draw.permutation(others)[:OTHER_ANSWERS].tolist()
            # The end mark follows any answer, so it says nothing about which is right.
            examples += [without_end(encode(replace(row, answer=answer))) for answer in (row.answer, *drawn)]
            items += [index] * (1 + len(drawn))
        return examples, items

    def influence(self, form: str) -> np.ndarray:
        """Return the influence of pool rows on validation rows in one of `FORMS`, float32 (n, m)."""
        compute = FORMS[form]
        # What a form reads is a signal with seconds of its own.
        for read in compute.reads:
            getattr(self, read)()
        return self._once(f"influence, {form}", lambda: compute(self))

    def kernel(self, damping: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return pool and validation rows whose inner products are the influence "cosine" or "fisher"."""
        pool, validation = self.adam_features(), self.validation_features()

        def whiten() -> tuple[np.ndarray, np.ndarray]:
            fisher = second_moment(pool) / len(pool)
            factors = [whitening(fisher, self._settings.damping)] if damping else None
            return side_by_side([pool], [1.0], factors), side_by_side([validation], [1.0], factors)

        return self._once(f"kernel, {'fisher' if damping else 'cosine'}", whiten)

    def hidden_states(self) -> np.ndarray:
        """Return the base model's weighted mean of hidden states of each pool row, float32 (n, h)."""
        return self._once("hidden states of the pool", lambda: self._pooled(self.pool))

    def validation_hidden_states(self) -> np.ndarray:
        """Return the same of the validation rows, float32 (m, h)."""
        return self._once("hidden states of validation rows", lambda: self._pooled(self.validation))

    def embeddings(self) -> np.ndarray:
        """Return the same of the prompts of the pool, in place of an encoder's embeddings, float32 (n, h)."""
        return self._once("hidden states of prompts", lambda: self._pooled([prompt_of(row) for row in self.pool]))

    def likelihoods(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the base model's mean loss of each answer in nats, (n,): after its prompt, and alone."""
        fitter = BatchFitter.forward(TOKEN_BUDGET)
        return self._once("likelihood", lambda: answer_likelihoods(self._base, self.pool, fitter=fitter))

    @property
    def damping(self) -> float:
        """The damping of the Fisher matrix."""
        return self._settings.damping

    def _engine(self, model: nn.Module, moments: Moments | None) -> GradientEngine:
        sketch = CountSketch(self._settings.dim, self.seed)
        return GradientEngine(model, sketch=sketch, moments=moments, token_budget=TOKEN_BUDGET)

    def _pooled(self, examples: list[Example]) -> np.ndarray:
        return pooled_hidden_states(self._base, examples, fitter=BatchFitter.forward(TOKEN_BUDGET))

    def _once(self, name: str, compute: Callable[[], ValueT]) -> ValueT:
        if name not in self._values:
            began = time.process_time()
            self._values[name] = compute()
            self.seconds[name] = time.process_time() - began
        value: ValueT = self._values[name]
        return value


@dataclass(frozen=True)
class Form:
    """A form of influence.

    Attributes:
        reads: names of the methods of `Signals` whose values it needs.
        compute: from signals to influence, float32 (n, m).
    """

    reads: tuple[str, ...]
    compute: Callable[[Signals], np.ndarray]

    def __call__(self, signals: Signals) -> np.ndarray:
        return self.compute(signals)


def _form(pool: str, validation: str = "validation_features", *, damped: bool = False) -> Form:
    def compute(signals: Signals) -> np.ndarray:
        features: list[np.ndarray] = [getattr(signals, name)() for name in (pool, validation)]
        return attribute(features[:1], features[1:], [1.0], damping=signals.damping if damped else None)

    return Form((pool, validation), compute)


FORMS: dict[str, Form] = {
    "cosine": _form("adam_features"),
    "fisher": _form("adam_features", damped=True),
    "plain": _form("plain_features"),
    "plain-fisher": _form("plain_features", damped=True),
    "contrast": _form("adam_features", "contrast_features"),
    "contrast-fisher": _form("adam_features", "contrast_features", damped=True),
}
"""By the name that arms have after a colon. Cosine is LESS's: Adam directions of pool rows, gradients of validation
rows. Fisher preconditions them; plain takes gradients of both; contrast takes what raises the right answer of a
validation row against others."""
