"""Rows to read: the picks that helped each target most, the first picks of each selection, and what was refused."""

from collections.abc import Mapping, Sequence
from typing import Any

from instsel.console import printable
from instsel.report.markdown import decimal
from instsel.report.page.parts import Cell, Reading, Row, Section, Table, Text, count

LETTERS = 2500
"""Letters of a turn that are shown; the whole text is in selected.jsonl."""

ROW_LETTERS = 4000
"""Letters of a row after which no further turn is shown."""

PICKS = 6

Turns = Mapping[str, Sequence[Mapping[str, str]]]


def reading_section(facts: Mapping[str, Any], texts: Turns) -> Section:
    """Rows by target, then by selection."""
    found = facts["reading"]
    rows = found.get("rows", {})
    if not rows:
        return Section("rows", "Rows to read", [Text(["No selection is made yet."])])
    groups: dict[str, list[Row]] = {}
    for target, ids in found["best"].items():
        groups[f"{target}: the picks that help it most"] = [_row(name, rows[name], texts) for name in ids]
    for selection in _one_a_method(facts):
        own = [(pick["rank"], name) for name, row in rows.items() for pick in row["picks"]
               if pick["selection"] == selection]  # fmt: skip
        groups[f"{selection}: first picks"] = [_row(name, rows[name], texts) for _, name in sorted(own)[:3]]
    lead = (
        "Help is the mean influence on a target's validation rows, in deviations of the pool above the pool's mean."
        if found["best"]
        else ""
    )
    return Section("rows", "Rows to read", [Reading({name: own for name, own in groups.items() if own})], lead)


def _one_a_method(facts: Mapping[str, Any]) -> list[str]:
    """The selections without those of further seeds."""
    others = {name for names in facts["seeds"].values() for name in names[1:]}
    return [name for name in facts["selections"] if name not in others]


def refused_section(facts: Mapping[str, Any]) -> Section:
    """Rows that were set aside and why."""
    found = facts["refused"]
    if not found["counts"]:
        return Section("refused", "Refused rows", [Text(["No row was set aside."])])
    counts = [[Cell(reason, reason), count(number)] for reason, number in found["counts"].items()]
    groups: dict[str, list[Row]] = {}
    for line in found["examples"]:
        where = f"{line['file']}, line {line['line']}" if line["line"] is not None else "a row of the pool"
        groups.setdefault(line["reason"], []).append(Row(where, line["reason"], [], [("text", _cut(line["text"]))]))
    return Section("refused", "Refused rows", [Table(["reason", "rows"], counts), Reading(groups)])


def _row(name: str, row: Mapping[str, Any], texts: Turns) -> Row:
    facts = []
    if row["helps"]:
        helps = sorted(row["helps"].items(), key=lambda item: -item[1])
        facts.append("helps " + ", ".join(f"{target} {decimal(value)}" for target, value in helps))
    picks = row["picks"]
    facts += [
        f"{pick['selection']}: pick {pick['rank']:,}, score {decimal(pick['score'], 3)}, {pick['reason']}"
        for pick in picks[:PICKS]
    ]
    if len(picks) > PICKS:
        facts.append(f"and of {len(picks) - PICKS} more: {', '.join(pick['selection'] for pick in picks[PICKS:])}")
    task = f"/{row['task']}" if row["task"] else ""
    return Row(name, f"{row['source']}{task}, {row['tokens']:,} tokens", facts, _turns(texts.get(name, [])))


def _turns(messages: Sequence[Mapping[str, str]]) -> list[tuple[str, str]]:
    turns: list[tuple[str, str]] = []
    for message in messages:
        if sum(len(text) for _, text in turns) > ROW_LETTERS:
            return [*turns, ("…", f"{len(messages) - len(turns):,} more turns")]
        turns.append((message["role"], _cut(message["content"])))
    return turns


def _cut(text: str) -> str:
    """A text that is safe to show and not longer than a page has room for."""
    shown = printable(text)
    if len(shown) <= LETTERS:
        return shown
    return f"{shown[:LETTERS]} … ({len(shown) - LETTERS:,} more letters)"
