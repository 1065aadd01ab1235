"""Form and content of each method's gain in held-out loss, over targets and runs, and their table in report.md."""

from collections.abc import Mapping, Sequence

import numpy as np

from instsel.errors import StudyError
from instsel.report.facts import Gain, StudyFacts
from instsel.report.markdown import BASE, decimal, markdown_table, percent
from instsel.report.record import StudyRecord
from instsel.stats import MEAN, Interval, paired_bootstrap
from instsel.study.gains import Gains, read_gains

NOTE = (
    "Form is what the answers of other options or items gained in mean log-probability, nats a token: what was learned "
    "about how answers look. Content is what the right answer gained beyond that. Base model before, higher is better"
)


def gains(record: StudyRecord, runs: Mapping[str, Sequence[str]]) -> tuple[dict[str, dict[str, Gain]], list[str]]:
    """Split the gains of methods, the mean over their runs.

    Args:
        record: of the study.
        runs: method -> its runs that are evaluated.

    Returns:
        Method -> target, and "mean" -> form and content with their intervals; targets whose rows have other answers.
        And a sentence for each run whose answers are not those of the base model.
    """
    if not record.config.evaluation.form_and_content:
        return {}, []
    by_method: dict[str, dict[str, Gain]] = {}
    sentences: list[str] = []
    for method, names in runs.items():
        if method == BASE:
            continue
        by_target: dict[str, Gains] = {}
        for target in record.config.targets:
            try:
                of_runs = [read_gains(record.folder / "evaluate", name, target) for name in names]
            except StudyError as error:
                sentences.append(str(error))
                continue
            known = [each for each in of_runs if each is not None]
            if known and len(known) == len(of_runs):
                form, content = (
                    np.mean([getattr(each, part) for each in known], axis=0) for part in ("form", "content")
                )
                by_target[target] = Gains(known[0].items, form, content)
        if by_target:
            by_method[method] = _with_intervals(record, by_target)
    return by_method, sentences


def _with_intervals(record: StudyRecord, by_target: Mapping[str, Gains]) -> dict[str, Gain]:
    form = _intervals(record, {target: each.form for target, each in by_target.items()})
    content = _intervals(record, {target: each.content for target, each in by_target.items()})
    counts = {target: len(each.items) for target, each in by_target.items()}
    counts[MEAN] = sum(counts.values())
    return {target: Gain(items=counts[target], form=form[target], content=content[target]) for target in form}


def _intervals(record: StudyRecord, values: Mapping[str, np.ndarray]) -> dict[str, Interval]:
    """Return the mean over items by target, and over targets, with their intervals."""
    evaluation = record.config.evaluation
    return paired_bootstrap(
        values,
        {target: np.zeros_like(each) for target, each in values.items()},
        samples=evaluation.bootstrap_samples,
        confidence=evaluation.confidence,
        seed=evaluation.seed,
    )


def gain_targets(facts: StudyFacts) -> list[str]:
    """Name the mean and the targets that have gains."""
    names = dict.fromkeys(target for by_target in facts.gains.values() for target in by_target)
    return [MEAN, *(name for name in names if name != MEAN)]


def gain_note(facts: StudyFacts) -> str:
    """Say what form and content are, and over how many rows."""
    counts = {target: gain.items for by_target in facts.gains.values() for target, gain in by_target.items()}
    rows = ", ".join(f"{target} {counts[target]}" for target in gain_targets(facts) if target != MEAN)
    return f"{NOTE}; with {percent(facts.confidence)} bootstrap intervals over held-out rows ({rows})."


def gain_text(interval: Interval) -> str:
    """Write a mean with its interval."""
    return f"{decimal(interval.difference)} [{decimal(interval.low)}, {decimal(interval.high)}]"


def gains_report(facts: StudyFacts) -> list[str]:
    """Write the section of report.md; empty where answers were not evaluated."""
    if not facts.gains:
        return []
    targets = gain_targets(facts)
    body = [
        [
            f"{method}, {part}",
            *(gain_text(getattr(by_target[target], part)) if target in by_target else "" for target in targets),
        ]
        for method, by_target in facts.gains.items()
        for part in ("form", "content")
    ]
    return ["## Form and content of the gains\n", markdown_table(["gain over base", *targets], body), gain_note(facts)]
