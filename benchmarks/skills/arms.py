"""The arms: random, the ideal chooser, and the selection methods on the data that each of them reads.

`Signals` computes what methods read (gradients, influence, hidden states, losses) once for all arms of a seed. A new
form of influence is an entry of `FORMS`, a new method one of `ARMS`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from torch import nn

from benchmarks.skills.model import TOKEN_BUDGET, Moments, TuneSettings, encode, tune
from benchmarks.skills.world import World
from instsel import CountSketch, GradientEngine, attribute, select
from instsel.data.batching import BatchFitter
from instsel.evaluation.scoring import answer_likelihoods
from instsel.models.hidden_states import pooled_hidden_states

ValueT = TypeVar("ValueT")


@dataclass(frozen=True)
class SignalSettings:
    """How what methods read is computed.

    Attributes:
        warmup: training of the LoRA whose checkpoint gradients are taken at, on a random draw of `budget` rows.
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
        base: the base model, frozen.
        budget: rows that every arm takes.
        seed: of the warmup, the sketch and the random arms.
        seconds: what each signal took, by name, without the signals that it reads itself.
    """

    def __init__(self, world: World, base: nn.Module, settings: SignalSettings, budget: int, seed: int) -> None:
        self.world, self.base, self.settings, self.budget, self.seed = world, base, settings, budget, seed
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
        """The skill of each row of the pool, (n,)."""
        return [row.skill for row in self.world.pool]

    def warm(self) -> tuple[nn.Module, Moments]:
        """Return the model after a short training on a random draw of the pool, and AdamW's moments."""

        def train() -> tuple[nn.Module, Moments]:
            draw = select("random", len(self.pool), self.budget, seed=self.seed + WARMUP_SEED)
            rows = [self.pool[index] for index in draw.indices.tolist()]
            return tune(self.base, rows, self.settings.warmup, self.seed + WARMUP_SEED)

        return self._once("warm", train)

    def adam_features(self) -> np.ndarray:
        """Return sketched Adam directions of the pool at the warm model, float32 (n, dim)."""
        model, moments = self.warm()
        return self._once("adam_features", lambda: self._engine(model, moments).features(self.pool))

    def plain_features(self) -> np.ndarray:
        """Return sketched gradients of the pool at the warm model, float32 (n, dim)."""
        model, _ = self.warm()
        return self._once("plain_features", lambda: self._engine(model, None).features(self.pool))

    def validation_features(self) -> np.ndarray:
        """Return sketched gradients of the validation rows at the warm model, float32 (m, dim)."""
        model, _ = self.warm()
        return self._once("validation_features", lambda: self._engine(model, None).features(self.validation))

    def influence(self, form: str) -> np.ndarray:
        """Return the influence of pool rows on validation rows in one of `FORMS`, float32 (n, m)."""
        return self._once(f"influence_{form}", lambda: FORMS[form](self))

    def hidden_states(self) -> np.ndarray:
        """Return the base model's weighted mean of hidden states of each pool row, float32 (n, h)."""
        return self._once("hidden_states", lambda: self._pooled(self.pool))

    def validation_hidden_states(self) -> np.ndarray:
        """Return the same of the validation rows, float32 (m, h)."""
        return self._once("validation_hidden_states", lambda: self._pooled(self.validation))

    def likelihoods(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the base model's mean loss of each answer in nats, (n,): after its prompt, and alone."""
        fitter = BatchFitter.forward(TOKEN_BUDGET)
        return self._once("likelihoods", lambda: answer_likelihoods(self.base, self.pool, fitter=fitter))

    def answer_tokens(self) -> np.ndarray:
        """Return the symbols of each answer, int64 (n,)."""
        return np.array([len(row.answer) for row in self.world.pool])

    def _engine(self, model: nn.Module, moments: Moments | None) -> GradientEngine:
        sketch = CountSketch(self.settings.dim, self.seed)
        return GradientEngine(model, sketch=sketch, moments=moments, token_budget=TOKEN_BUDGET)

    def _pooled(self, examples: Any) -> np.ndarray:
        return pooled_hidden_states(self.base, examples, fitter=BatchFitter.forward(TOKEN_BUDGET))

    def _once(self, name: str, compute: Callable[[], ValueT]) -> ValueT:
        if name not in self._values:
            inside, began = sum(self.seconds.values()), time.perf_counter()
            self._values[name] = compute()
            # Signals that were computed on the way have seconds of their own.
            self.seconds[name] = time.perf_counter() - began - (sum(self.seconds.values()) - inside)
        value: ValueT = self._values[name]
        return value


# The warmup draws other rows and matrices than the arm "random" of the same seed.
WARMUP_SEED = 100_000


def _cosine(signals: Signals) -> np.ndarray:
    """LESS: Adam directions of pool rows, gradients of validation rows."""
    return attribute([signals.adam_features()], [signals.validation_features()], [1.0])


def _fisher(signals: Signals) -> np.ndarray:
    """The same, preconditioned by the damped Fisher matrix of the pool."""
    damping = signals.settings.damping
    return attribute([signals.adam_features()], [signals.validation_features()], [1.0], damping=damping)


def _plain(signals: Signals) -> np.ndarray:
    """Gradients of both, without Adam."""
    return attribute([signals.plain_features()], [signals.validation_features()], [1.0])


def _plain_fisher(signals: Signals) -> np.ndarray:
    """Gradients of both, preconditioned."""
    damping = signals.settings.damping
    return attribute([signals.plain_features()], [signals.validation_features()], [1.0], damping=damping)


FORMS: dict[str, Callable[[Signals], np.ndarray]] = {
    "cosine": _cosine,
    "fisher": _fisher,
    "plain": _plain,
    "plain_fisher": _plain_fisher,
}
"""Influence (n, m) of pool rows on validation rows, by the name that arms have after a colon."""

Arm = Callable[[Signals], np.ndarray]
"""From signals to the rows that it takes, int64 (budget,) or fewer."""


def _random(signals: Signals) -> np.ndarray:
    return select("random", len(signals.pool), signals.budget, seed=signals.seed).indices


def _ideal(signals: Signals) -> np.ndarray:
    """Take helpful rows only, a random draw of them."""
    helpful = np.flatnonzero(signals.world.helpful)
    taken: np.ndarray = helpful[select("random", len(helpful), signals.budget, seed=signals.seed).indices]
    return taken


def _by_influence(signals: Signals, *, method: str, form: str, label: str | None = None) -> np.ndarray:
    options: dict[str, Any] = {} if label is None else {label: signals.targets}
    return select(method, signals.influence(form), signals.budget, **options).indices


def _g2is(signals: Signals) -> np.ndarray:
    train, validation = signals.adam_features(), signals.validation_features()
    # Without filling it would take fewer rows than the others.
    return select("g2is", train, signals.budget, validation=validation, fill="similarity").indices


def _rds(signals: Signals) -> np.ndarray:
    validation = signals.validation_hidden_states()
    return select("rds", signals.hidden_states(), signals.budget, validation=validation).indices


def _by_hidden_states(signals: Signals, *, method: str) -> np.ndarray:
    return select(method, signals.hidden_states(), signals.budget).indices


def _smart(signals: Signals) -> np.ndarray:
    return select("smart", signals.hidden_states(), signals.budget, tasks=signals.skills).indices


def _equal(signals: Signals) -> np.ndarray:
    return select("equal", signals.skills, signals.budget, seed=signals.seed).indices


def _longest(signals: Signals) -> np.ndarray:
    return select("longest", signals.answer_tokens(), signals.budget).indices


def _perplexity(signals: Signals) -> np.ndarray:
    return select("perplexity", signals.likelihoods()[0], signals.budget).indices


def _ifd(signals: Signals) -> np.ndarray:
    loss, alone = signals.likelihoods()
    return select("ifd", loss, signals.budget, loss_alone=alone).indices


# The option that the targets of the validation rows are given by; None for methods that do not ask for them.
_LABELS = {
    "round_robin": "targets",
    "bids": None,
    "less": "subtasks",
    "instance_max": None,
    "task_max": "tasks",
    "sum": None,
}


def _arms() -> dict[str, Arm]:
    arms: dict[str, Arm] = {"random": _random, "ideal": _ideal}
    for form in FORMS:
        for method, label in _LABELS.items():
            arms[f"{method}:{form}"] = partial(_by_influence, method=method, form=form, label=label)
    arms |= {"g2is": _g2is, "rds": _rds, "smart": _smart}
    for method in ("facility_location", "graph_cut", "log_det"):
        arms[method] = partial(_by_hidden_states, method=method)
    return arms | {"longest": _longest, "perplexity": _perplexity, "ifd": _ifd, "equal": _equal}


ARMS = _arms()
"""By name; a method that reads influence has its form after a colon."""
BASELINES = ("random", "ideal")
