"""Outcomes of a search: objectives, the Pareto set, and which keys mattered."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from instsel.config.search import Objective, Point, Range
from instsel.report.facts import SearchFacts, TrialFacts


@dataclass(frozen=True)
class Outcome:
    """One trial.

    Attributes:
        name: of the trial, by what it depends on.
        point: key of the space -> value.
        objective: what was minimised; infinite where the trial failed.
        tokens: trained on, epochs counted.
        searched: target -> mean loss of the held-out rows that were searched by.
        judged: target -> mean loss of the other held-out rows.
        failed: why, where it failed.
        stopped: whether it was stopped early.
    """

    name: str
    point: Point
    objective: float
    tokens: int
    searched: Mapping[str, float]
    judged: Mapping[str, float]
    failed: str | None = None
    stopped: bool = False


def objective_of(losses: Mapping[str, float], tokens: int, weights: Objective) -> float:
    """Compute what is minimised: mean loss over targets, the worst one weighed more if wanted, and what training costs.

    Args:
        losses: target -> mean loss, nats; at least one.
        tokens: trained on.
        weights: of the worst target, and of a million tokens.
    """
    values = list(losses.values())
    mean = sum(values) / len(values)
    return (1 - weights.worst) * mean + weights.worst * max(values) + weights.cost * tokens / 1e6


def pareto_set(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return the trials that no other one beats in both tokens and objective, by tokens; of equal ones the first."""
    pareto: list[Outcome] = []
    for outcome in sorted(outcomes, key=lambda trial: (trial.tokens, trial.objective, trial.name)):
        if np.isfinite(outcome.objective) and (not pareto or outcome.objective < pareto[-1].objective):
            pareto.append(outcome)
    return pareto


def search_facts(outcomes: Sequence[Outcome], importance: Mapping[str, float], share: float) -> SearchFacts:
    """Return all that the report of a search says.

    Args:
        outcomes: the trials, the best first, those that were stopped early or failed last.
        importance: key -> share of the objective's spread.
        share: of the held-out rows that were searched by.
    """
    pareto = {outcome.name for outcome in pareto_set([outcome for outcome in outcomes if not outcome.stopped])}
    trials = [TrialFacts.model_validate({**asdict(outcome), "pareto": outcome.name in pareto}) for outcome in outcomes]
    return SearchFacts(trials=trials, importance=dict(importance), share=share)


def importances(outcomes: Sequence[Outcome], space: Mapping[str, Any], seed: int) -> dict[str, float]:
    """Compute how much of the objective's spread each key explains (functional ANOVA on a random forest, by Optuna).

    Args:
        outcomes: trials; failed ones are ignored.
        space: key -> choices or range.
        seed: of the forest.

    Returns:
        Key -> share, the largest first; they sum to 1. Empty with fewer than four trials, or where nothing varied.
    """
    import optuna

    finished = [trial for trial in outcomes if np.isfinite(trial.objective) and not trial.stopped]
    if len(finished) < 4 or len({trial.objective for trial in finished}) < 2:
        return {}
    distributions = {key: _distribution(values) for key, values in space.items()}
    varied = {key: distribution for key, distribution in distributions.items() if not distribution.single()}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study()
    for trial in finished:
        params = {key: _param(trial.point[key]) for key in varied}
        study.add_trial(optuna.create_trial(params=params, distributions=varied, value=trial.objective))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def _distribution(values: Any) -> Any:
    import optuna

    if not isinstance(values, Range):
        return optuna.distributions.CategoricalDistribution([_param(value) for value in values])
    if isinstance(values.low, int) and isinstance(values.high, int):
        return optuna.distributions.IntDistribution(values.low, values.high, log=values.log)
    return optuna.distributions.FloatDistribution(values.low, values.high, log=values.log)


def _param(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool) else str(value)
