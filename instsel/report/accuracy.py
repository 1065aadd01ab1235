"""Scores of the runs that are there on benchmarks: differences, guards, and whether the held-out loss says the same."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from instsel.report.compared import AccuracyFacts, GuardFacts, ProbabilityFacts, Results
from instsel.report.headroom import cannot_move
from instsel.report.markdown import BASE
from instsel.report.record import StudyRecord
from instsel.report.results import baseline_of, compared, comparisons_to, mean_table, pooled, runs_by_method, stacked
from instsel.stats import MEAN, Bootstrap, RankCorrelation, non_inferiority, rank_correlation

Values = dict[str, np.ndarray]
"""Target or guard -> float64 (items,)."""

POINTS = 100


def accuracy(
    record: StudyRecord, losses: Results, budget: int | float | None = None
) -> tuple[AccuracyFacts | None, list[str]]:
    """Compare the scored runs of a budget.

    Args:
        record: of the study.
        losses: held-out losses of these runs.
        budget: one of the study's; None is the largest.

    Returns:
        The facts; None where nothing is scored. And a sentence for each run that is passed over, because its items are
        not those of the others.
    """
    everything = record.results("accuracy")
    scored = {name: everything[name] for name in record.names_at(budget) if name in everything}
    if not scored:
        return None, []
    correct, probability, warnings = _items_of(record, scored)
    runs, config = runs_by_method(record, correct), record.config
    baseline = baseline_of(record, runs)
    bootstrap = Bootstrap(config.evaluation.bootstrap_samples, config.evaluation.confidence, config.evaluation.seed)
    targets, guards = _common(config.targets, correct), _common(config.guards, correct)
    options = _common(targets, probability)
    by_target = _only(correct, targets)
    excluded = [target for target in cannot_move(record) if target in targets]
    margins = {name: config.guards[name].margin / POINTS for name in guards}
    return AccuracyFacts(
        **compared_scores(by_target, runs, baseline, bootstrap, excluded),
        metrics={name: how for result in scored.values() for name, how in result["settings"].items()},
        margins=margins,
        guards=judge_guards(_only(correct, guards), runs, margins, bootstrap) if guards else {},
        base_guards={name: float(correct[BASE][name].mean()) for name in guards} if BASE in correct else {},
        unanswered=_unanswered(scored, runs),
        probability=ProbabilityFacts(
            **compared_scores(_only(probability, options), runs, baseline, bootstrap, excluded)
        )
        if options
        else None,
        loss_correlation=loss_correlation(mean_table(by_target), losses) if targets else {},
    ), warnings


def compared_scores(
    values: Mapping[str, Values],
    runs: Mapping[str, Sequence[str]],
    baseline: str,
    bootstrap: Bootstrap,
    excluded: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the fields of `Scores`: of the scores of each run on the items of each target.

    Args:
        values: run -> target -> float64 (items,).
        runs: method -> its runs.
        baseline: method that the others are compared with.
        bootstrap: resamples, confidence and seed.
        excluded: targets that means and judged leave out.
    """
    excluded = [target for target in excluded if target in next(iter(values.values()), {})]
    if not values or not next(iter(values.values())):
        return {"baseline": baseline, "confidence": bootstrap.confidence, "runs": runs}
    return {
        **compared(values, runs, baseline, bootstrap, higher_is_better=True, excluded=excluded),
        "scores": mean_table(pooled(values, runs), excluded),
        "scores_by_run": mean_table(values, excluded),
        "items": {target: len(items) for target, items in next(iter(values.values())).items()},
    }


def judge_guards(
    values: Mapping[str, Values], runs: Mapping[str, Sequence[str]], margins: Mapping[str, float], bootstrap: Bootstrap
) -> dict[str, dict[str, GuardFacts]]:
    """Judge each method against the base model; nothing where that is not scored.

    Args:
        values: run -> guard -> float64 (items,).
        runs: method -> its runs.
        margins: guard -> how much of the score may be lost, 0 to 1.
        bootstrap: resamples, confidence and seed.
    """
    by_method = stacked(values, runs)
    judged: dict[str, dict[str, GuardFacts]] = {}
    for name, comparison in comparisons_to(by_method, BASE, bootstrap).items():
        judged[name] = {}
        for guard, items in by_method[name].items():
            each = comparison.intervals[guard]
            ends = (each.difference, each.low, each.high, margins[guard])
            judgement = non_inferiority(*ends, higher_is_better=True)
            judged[name][guard] = GuardFacts(score=float(items.mean()), difference=each, judgement=judgement)
    return judged


def _items_of(
    record: StudyRecord, scored: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, Values], dict[str, Values], list[str]]:
    """Read the scores and the probabilities of each run, and name the runs whose items are not those of the first."""
    correct: dict[str, Values] = {}
    probability: dict[str, Values] = {}
    known: dict[str, list[str]] = {}
    warnings = []
    for run in (name for name in (BASE, *record.runs) if name in scored):
        folder = record.folder / "accuracy" / run
        values: Values = {}
        options: Values = {}
        # Named by the study file, whose names are checked: they become names of files.
        for name in (name for name in record.config.measured if name in scored[run]["scores"]):
            if not folder.exists(f"{name}.parquet"):
                warnings.append(f"accuracy/{run} is ignored: {name}.parquet is gone")
                break
            table = folder.read_table(f"{name}.parquet", ["item", "correct", "probability"])
            if known.setdefault(name, table["item"].to_pylist()) != table["item"].to_pylist():
                warnings.append(f"accuracy/{run} is ignored: its items of {name} are not those of the other runs")
                break
            values[name] = table["correct"].to_numpy()
            if not table["probability"].null_count:
                options[name] = table["probability"].to_numpy()
        else:
            correct[run], probability[run] = values, options
    return correct, probability, warnings


def _common(names: Iterable[str], values: Mapping[str, Values]) -> list[str]:
    return [name for name in names if values and all(name in by_name for by_name in values.values())]


def _only(values: Mapping[str, Values], names: Sequence[str]) -> dict[str, Values]:
    return {run: {name: by_name[name] for name in names} for run, by_name in values.items()}


def _unanswered(
    scored: Mapping[str, Mapping[str, Any]], runs: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, float]]:
    shares: dict[str, dict[str, float]] = {}
    for method, names in runs.items():
        for name in scored[names[0]]["scores"]:
            scores = [scored[run]["scores"][name] for run in names]
            share = sum(score["unanswered"] for score in scores) / sum(score["items"] for score in scores)
            if share:
                shares.setdefault(method, {})[name] = share
    return shares


def loss_correlation(scores: Mapping[str, Mapping[str, float]], losses: Results) -> dict[str, RankCorrelation]:
    """Correlate losses and scores of trained runs by target, and their means over the targets that have both.

    The base model is left out: it has the highest loss and mostly the lowest score, which says nothing about which of
    two trainings to take.
    """
    by_run = losses.losses_by_run
    runs = [run for run in scores if run != BASE and run in by_run]
    targets = [target for target in losses.heldout_rows if runs and target in scores[runs[0]]]
    correlations = {
        target: rank_correlation([by_run[run][target] for run in runs], [scores[run][target] for run in runs])
        for target in targets
    }
    if targets:
        means = (
            [float(np.mean([values[run][target] for target in targets])) for run in runs] for values in (by_run, scores)
        )
        correlations[MEAN] = rank_correlation(*means)
    return correlations
