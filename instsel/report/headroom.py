"""Headroom of the targets: what training on rows that serve a target moves, and which targets nothing moves."""

from collections.abc import Collection, Iterable, Mapping

import numpy as np

from instsel.report.compared import Facts
from instsel.report.markdown import decimal, markdown_table, percent
from instsel.report.record import StudyRecord
from instsel.stats import Interval, paired_bootstrap

SCORES = "scores.parquet"
DECIDING = ("accuracy", "content", "loss")
"""Scores, the one that counts first."""

LEAST_SCORED = 0.8
"""Share of the validation rows whose answers have to be scored for accuracy to count."""

CANNOT_MOVE = "cannot move"


class HeadroomFacts(Facts):
    """What training on rows that serve a target moves on its validation rows.

    Attributes:
        gains: score -> mean gain over the base model with its interval; higher is better.
        decided_by: the score that says whether the target moves.
        moves: whether its interval lies above zero.
        trained: rows that were trained on.
        by_sources: whether these are rows of the pool; else they are validation rows, by folds.
        rows: validation rows that were scored.
    """

    gains: dict[str, Interval]
    decided_by: str
    moves: bool
    trained: int
    by_sources: bool
    rows: int


def headroom(record: StudyRecord) -> dict[str, HeadroomFacts]:
    """Judge each target by the stage *headroom*; empty where the study has not run it."""
    if not record.config.evaluation.headroom or "headroom" not in record.manifests:
        return {}
    trained = record.manifests["headroom"]["result"]["targets"]
    table = (record.folder / "headroom").read_table(SCORES).to_pylist()
    by_target: dict[str, dict[str, list[float]]] = {}
    for line in table:
        by_target.setdefault(line["target"], {}).setdefault(line["score"], []).append(line["gain"])
    evaluation = record.config.evaluation
    facts = {}
    for target in (name for name in record.config.targets if name in by_target and name in trained):
        gains, how = {}, trained[target]
        for score, values in by_target[target].items():
            if score == "accuracy" and len(values) < LEAST_SCORED * how["scored"]:
                continue
            gained = np.array(values)
            intervals = paired_bootstrap(
                {target: gained},
                {target: np.zeros_like(gained)},
                samples=evaluation.bootstrap_samples,
                confidence=evaluation.confidence,
                seed=evaluation.seed,
            )
            gains[score] = intervals[target]
        decided_by = next(score for score in DECIDING if score in gains)
        facts[target] = HeadroomFacts(
            gains=gains,
            decided_by=decided_by,
            moves=gains[decided_by].low > 0,
            trained=how["trained"],
            by_sources=how["by_sources"],
            rows=how["scored"],
        )
    return facts


def cannot_move(record: StudyRecord) -> list[str]:
    """Name the targets of a study on which nothing moved."""
    return unmoved(headroom(record))


def unmoved(facts: Mapping[str, HeadroomFacts]) -> list[str]:
    """Name the targets on which nothing moved."""
    return [target for target, each in facts.items() if not each.moves]


def counted_targets(targets: Iterable[str], excluded: Collection[str]) -> list[str]:
    """Return the targets that means are over: all but those left out, or all where none would be left."""
    names = list(targets)
    return [target for target in names if target not in excluded] or names


def headroom_rows(facts: Mapping[str, HeadroomFacts]) -> list[list[str]]:
    """Lay out the targets: name, gains by score, rows trained on and scored, verdict; first the head."""
    scores = [score for score in DECIDING if any(score in each.gains for each in facts.values())]
    rows = [["target", *(f"gain in {score}" for score in scores), "trained on", "scored", "verdict"]]
    for target, each in facts.items():
        gains = [_gain_text(each.gains[score]) if score in each.gains else "" for score in scores]
        source = "rows of the pool" if each.by_sources else "validation rows, by folds"
        outcome = "moves" if each.moves else CANNOT_MOVE
        rows.append([target, *gains, f"{each.trained} {source}", str(each.rows), outcome])
    return rows


def headroom_note(confidence: float) -> str:
    """Say what headroom is."""
    return (
        "What an adapter gains over the base model on a target's validation rows, trained as all others are on rows "
        f"that are known to serve it, with {percent(confidence)} bootstrap intervals; higher is better. Accuracy "
        "decides where most rows can be scored, else content, else loss. A target whose interval is not above zero "
        "cannot tell methods apart at this model and budget: it stays in the tables, marked, and out of means and "
        "verdicts."
    )


def headroom_report(facts: Mapping[str, HeadroomFacts], confidence: float) -> list[str]:
    """Write the section of report.md; empty without headroom."""
    if not facts:
        return []
    head, *body = headroom_rows(facts)
    return ["## Headroom\n", markdown_table(head, body), headroom_note(confidence)]


def _gain_text(interval: Interval) -> str:
    return f"{decimal(interval.difference)} [{decimal(interval.low)}, {decimal(interval.high)}]"
