"""The arms: random, the ideal chooser and other baselines, and every selection method of the product.

A method that reads influence is an arm for each form of it, `METHOD:FORM`. A new method is a function here and an entry
of `_methods`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks.skills.signals import FORMS, Signals
from instsel import attribute, select
from instsel.attribution.kernel import subtask_means

Arm = Callable[[Signals], np.ndarray]
"""From signals to the rows that it takes, int64 (budget,)."""

BASE, VALIDATION_ONLY = "base", "validation_only"
RANDOM, IDEAL = "random", "ideal"
TAKES_NOTHING = (BASE, VALIDATION_ONLY)
"""Arms that take no row of the pool: the model as it is, and training on the validation rows alone."""

# The option that the targets of the validation rows are given by; None for methods that do not ask for them.
_LABELS = {
    "bids": None,
    "instance_max": None,
    "less": "subtasks",
    "round_robin": "targets",
    "sum": None,
    "task_max": "tasks",
}
# Forms that every method reads; the others are run with bids alone.
_CROSSED = ("cosine", "fisher", "contrast")


def _random(signals: Signals) -> np.ndarray:
    return select("random", len(signals.pool), signals.budget, seed=signals.seed).indices


def _ideal(signals: Signals) -> np.ndarray:
    """Draw from the helpful rows."""
    return _drawn(signals, np.flatnonzero(signals.world.helpful))


def _named(signals: Signals) -> np.ndarray:
    """Draw from all rows of the skills that help, wrong ones too, as someone does who names the right sources."""
    return _drawn(signals, np.flatnonzero(signals.world.of_good_skill))


def _drawn(signals: Signals, rows: np.ndarray) -> np.ndarray:
    taken: np.ndarray = rows[select("random", len(rows), signals.budget, seed=signals.seed).indices]
    return taken


def _by_influence(signals: Signals, *, method: str, form: str, **options: Any) -> np.ndarray:
    label = _LABELS[method]
    labels: dict[str, Any] = {} if label is None else {label: signals.targets}
    return select(method, signals.influence(form), signals.budget, **labels, **options).indices


def _less_gradients(signals: Signals) -> np.ndarray:
    """LESS as its paper's text has it: gradients are averaged within a subtask before the cosine."""
    means, subtasks = subtask_means(signals.validation_features(), signals.targets)
    influence = attribute([signals.adam_features()], [means], [1.0])
    return select("less", influence, signals.budget, subtasks=subtasks).indices


def _g2is(signals: Signals, *, damping: bool) -> np.ndarray:
    pool, validation = signals.kernel(damping)
    # Without filling it would take fewer rows than the others.
    return select("g2is", pool, signals.budget, validation=validation, fill="similarity").indices


def _rds(signals: Signals) -> np.ndarray:
    validation = signals.validation_hidden_states()
    return select("rds", signals.hidden_states(), signals.budget, validation=validation).indices


def _by_embeddings(signals: Signals, *, method: str) -> np.ndarray:
    return select(method, signals.embeddings(), signals.budget).indices


def _smart(signals: Signals) -> np.ndarray:
    return select("smart", signals.embeddings(), signals.budget, tasks=signals.skills).indices


def _stratified(signals: Signals, *, method: str) -> np.ndarray:
    return select(method, signals.skills, signals.budget, seed=signals.seed).indices


def _longest(signals: Signals) -> np.ndarray:
    return select("longest", signals.answer_tokens, signals.budget).indices


def _perplexity(signals: Signals) -> np.ndarray:
    return select("perplexity", signals.likelihoods()[0], signals.budget).indices


def _ifd(signals: Signals) -> np.ndarray:
    loss, alone = signals.likelihoods()
    return select("ifd", loss, signals.budget, loss_alone=alone).indices


def _methods() -> dict[str, Arm]:
    arms: dict[str, Arm] = {
        f"{method}:{form}": partial(_by_influence, method=method, form=form)
        for method in _LABELS
        for form in FORMS
        if method == "bids" or form in _CROSSED
    }
    # Options of these methods that docs/results.md compares on a real pool.
    arms["bids-unnormalised:cosine"] = partial(_by_influence, method="bids", form="cosine", normalize=False)
    arms["instance_max-normalised:cosine"] = partial(
        _by_influence, method="instance_max", form="cosine", normalize=True
    )
    arms["less-gradients:cosine"] = _less_gradients
    arms |= {"g2is:cosine": partial(_g2is, damping=False), "g2is:fisher": partial(_g2is, damping=True)}
    for method in ("facility_location", "graph_cut", "log_det"):
        arms[method] = partial(_by_embeddings, method=method)
    for method in ("proportional", "equal"):
        arms[method] = partial(_stratified, method=method)
    return arms | {"rds": _rds, "smart": _smart, "longest": _longest, "perplexity": _perplexity, "ifd": _ifd}


_METHODS = _methods()
ARMS: dict[str, Arm] = {RANDOM: _random, IDEAL: _ideal, "named": _named, **_METHODS}
"""Arms that take rows of the pool, by name."""

NAMES = (*TAKES_NOTHING, *ARMS)
"""All arms, in the order of the results."""


def is_method(arm: str) -> bool:
    """Say whether an arm is a selection method, and neither random nor another baseline."""
    return arm in _METHODS


def method_of(arm: str) -> str:
    """Return the method of the product that an arm is: `bids` of `bids-unnormalised:cosine`."""
    return arm.partition(":")[0].partition("-")[0]
