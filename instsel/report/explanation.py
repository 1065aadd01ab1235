"""What is told of one row, and of one selection, as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from instsel.choice.explain import Effect, Explanation, Standing
from instsel.console import inline
from instsel.report.markdown import decimal, markdown_table

TEXT_SHOWN = 600
PROMPT_SHOWN = 90
TASKS_SHOWN = 8


def explanation(found: Explanation) -> str:
    """Write why a row was chosen or not.

    Args:
        found: what `choice.explain.explain` gathered.
    """
    row = found.row
    head = f"**{row['id']}**: source {inline(row['source'])}, task {inline(row['task'] or '-')}, {row['tokens']} tokens"
    parts = [f"{head}, from {inline(row['file'])} line {row['line']}", *(_turn(message) for message in row["messages"])]
    parts += ["", markdown_table(["selection", "rank", "of", "score", "why"], [_place(one) for one in found.standings])]
    parts.append("Rank of a row that was not chosen: its place if the budget were the whole pool.\n")
    if found.helped is None or found.hurt is None:
        return "\n".join([*parts, "No influence: the study has no gradients, or this row has no usable one.\n"])
    parts += [
        f"Helps most ({found.influence}; in brackets: deviations of the pool above its mean)\n",
        _effects(found.helped),
    ]
    parts += ["Helps least, or hurts most\n", _effects(found.hurt)]
    return "\n".join(parts)


def selection_summary(made: Mapping[str, Any], folder: str) -> str:
    """Write what a new selection is made of.

    Args:
        made: what `choice.anew.reselect` returns.
        folder: where it lies.
    """
    lines = [f"**{made['name']}**: {made['rows']:,} rows, {made['tokens']:,} tokens", ""]
    lines += [f"- sources: {_counted(made['sources'])}", f"- tasks: {_counted(made['tasks'])}"]
    if "figures" in made:
        figures = made["figures"]
        lines.append(f"- rows that serve a target most ({made['influence']}): {_counted(figures['served'])}")
        influence = ", ".join(f"{target} {decimal(value)}" for target, value in figures["influence"].items())
        lines.append(f"- mean influence, deviations above the pool's mean: {influence}")
        lines.append(f"- mean cosine of two of its gradients: {decimal(figures['redundancy'], 3)}")
    return "\n".join([*lines, f"- files: `{folder}`", ""])


def _turn(message: Mapping[str, str]) -> str:
    text = message["content"]
    cut = f"{text[:TEXT_SHOWN]} … ({len(text):,} characters)" if len(text) > TEXT_SHOWN else text
    return f"\n{message['role']}:\n\n" + "\n".join(f"    {line}" for line in cut.splitlines())


def _place(one: Standing) -> list[str]:
    if one.is_chosen:
        return [one.selection, f"{one.rank:,}", f"{one.chosen:,}", decimal(one.score or 0.0, 4), one.reason or ""]
    rank = "–" if one.rank is None else f"{one.rank:,}"
    return [one.selection, rank, f"{one.chosen:,}", "–", "not chosen"]


def _effects(effects: Sequence[Effect]) -> str:
    body = [
        [
            f"{effect.subtask}:{effect.example}",
            f"{decimal(effect.influence, 4)} ({decimal(effect.standard)})",
            _short(effect.prompt),
        ]
        for effect in effects
    ]
    return markdown_table(["validation example", "influence", "prompt"], body)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return f"{line[:PROMPT_SHOWN]} …" if len(line) > PROMPT_SHOWN else line


def _counted(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{inline(name)} {count:,}" for name, count in ordered[:TASKS_SHOWN])
    return shown if len(ordered) <= TASKS_SHOWN else f"{shown}, {len(ordered) - TASKS_SHOWN} more"
