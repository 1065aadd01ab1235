"""Curves over budgets: what each method reached at each of them, and their table in report.md."""

from collections.abc import Mapping

import numpy as np

from instsel.report.compared import AccuracyFacts, Compared
from instsel.report.facts import CurvePoint, StudyFacts
from instsel.report.headline import interval_text, p_text, value_text
from instsel.report.markdown import BASE, NONE, markdown_table
from instsel.report.record import StudyRecord
from instsel.stats import MEAN
from instsel.study.results import SelectResult

NOTE = (
    "Each method is compared with the baseline of the same budget; p-values are adjusted by Holm over the methods of a "
    "budget. Other comparisons are at the largest one. Rows or tokens are those of an epoch."
)


def curve(record: StudyRecord, by_budget: Mapping[int | float, Compared]) -> dict[str, list[CurvePoint]]:
    """Return what each method reached at each budget; nothing where the study has a single one.

    Args:
        record: of the study.
        by_budget: budget -> methods compared at it, smallest budget first.
    """
    if len(by_budget) < 2:
        return {}
    points: dict[str, list[CurvePoint]] = {}
    for results in by_budget.values():
        for arm in (name for name in results.values if name != BASE):
            runs = [record.runs[run] for run in results.runs[arm]]
            difference = results.differences.get(arm)
            point = CurvePoint(
                arm=arm,
                amount=_amount(record, {run.selection for run in runs}),
                value=results.values[arm][MEAN],
                difference=None if difference is None else difference[MEAN],
                adjusted_p=results.adjusted_p.get(arm, {}).get(MEAN),
                harmed=_harmed(results, arm),
            )
            points.setdefault(runs[0].method.name, []).append(point)
    return points


def curve_text(facts: StudyFacts) -> list[str]:
    """Write what methods reached at each budget; nothing where the study has a single one."""
    if not facts.curve:
        return []
    measure = facts.primary.measure
    rows = []
    for name, points in facts.curve.items():
        for point in points:
            doubt = NONE if point.adjusted_p is None else p_text(point.adjusted_p).removeprefix("p ")
            difference = interval_text(point.difference, measure) or NONE
            harmed = ", ".join(point.harmed) or NONE
            rows.append([name, f"{point.amount:,.0f}", value_text(point.value, measure), difference, doubt, harmed])
    header = ["method", facts.unit, measure.name, "difference to the baseline", "adjusted p-value", "guards harmed"]
    return ["## Curves over budgets\n", markdown_table(header, rows), NOTE]


def curve_sentences(facts: StudyFacts) -> list[str]:
    """Say what each method reached at each budget, a sentence a method; nothing where the study has a single one."""
    measure = facts.primary.measure
    sentences = []
    for name, points in facts.curve.items():
        values = ", ".join(
            f"{value_text(point.value, measure)} with {point.amount:,.0f} {facts.unit}" for point in points
        )
        sentences.append(f"{measure.name} of {name}: {values}")
    return sentences


def _amount(record: StudyRecord, selections: set[str]) -> float:
    """Return the rows or tokens that an epoch on some selections trains on, their mean."""
    unit, results = record.config.selection.unit, record.results("select")
    trained = [SelectResult.model_validate(results[name]).trained for name in sorted(selections) if name in results]
    return float(np.mean([getattr(count, unit) for count in trained] or [0]))


def _harmed(results: Compared, arm: str) -> list[str]:
    guards = results.guards.get(arm, {}) if isinstance(results, AccuracyFacts) else {}
    return [name for name, facts in guards.items() if facts.judgement == "worse"]
