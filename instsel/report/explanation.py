"""Why a row was selected, and what a selection is made of, as Markdown."""

from collections.abc import Mapping, Sequence

from instsel.choice.explain import Effect, Explanation, Standing
from instsel.choice.reselect import Reselection
from instsel.console import inline
from instsel.data.messages import Message
from instsel.report.facts import SelectionFacts
from instsel.report.markdown import NONE, decimal, markdown_table
from instsel.report.text import selection_notes

MOST_TEXT = 600
MOST_PROMPT = 90
MOST_COUNTS = 8


def row_explanation(explanation: Explanation) -> str:
    """Write why a row was selected or not.

    Args:
        explanation: what `choice.explain.explain` returns.
    """
    row = explanation.row
    head = f"**{row['id']}**: source {inline(row['source'])}, task {inline(row['task'] or '-')}, {row['tokens']} tokens"
    parts = [f"{head}, from {inline(row['file'])} line {row['line']}", *(_turn(message) for message in row["messages"])]
    ranks = [_rank(standing) for standing in explanation.standings]
    parts += ["", markdown_table(["selection", "rank", "of", "score", "why"], ranks)]
    parts.append("Rank of a row that was not selected: the rank it would have if the budget were the whole pool.\n")
    if explanation.helped is None or explanation.hurt is None:
        return "\n".join([*parts, "No influence: the study has no gradients, or this row has no usable one.\n"])
    note = f"Helps most ({explanation.influence}; in brackets: deviations of the pool above its mean)\n"
    parts += [note, _effects(explanation.helped), "Helps least, or hurts most\n", _effects(explanation.hurt)]
    return "\n".join(parts)


def selection_summary(selection: Reselection) -> str:
    """Write what a new selection is made of."""
    result, metrics = selection.result, selection.metrics
    lines = [f"**{selection.name}**: {result.rows:,} rows, {result.tokens:,} tokens", ""]
    if result.rows:
        lines += [f"- sources: {_counts(result.sources)}", f"- tasks: {_counts(result.tasks)}"]
    if note := selection_notes(SelectionFacts.model_validate(result.to_dict())).strip():
        lines.append(f"- {note}")
    if metrics is not None:
        lines.append(f"- rows by the target they help most ({selection.influence}): {_counts(metrics.served)}")
        influence = ", ".join(f"{target} {decimal(value)}" for target, value in metrics.influence.items())
        lines.append(f"- mean influence, deviations above the pool's mean: {influence}")
        lines.append(f"- mean cosine of two of its gradients: {decimal(metrics.redundancy, 3)}")
    return "\n".join([*lines, f"- files: `{selection.folder}`", ""])


def _turn(message: Message) -> str:
    text = message["content"]
    cut = f"{text[:MOST_TEXT]} … ({len(text):,} characters)" if len(text) > MOST_TEXT else text
    return f"\n{message['role']}:\n\n" + "\n".join(f"    {line}" for line in cut.splitlines())


def _rank(standing: Standing) -> list[str]:
    rank = NONE if standing.rank is None else f"{standing.rank:,}"
    if not standing.is_chosen:
        return [standing.selection, rank, f"{standing.chosen:,}", NONE, "not selected"]
    score = decimal(standing.score or 0.0, 4)
    return [standing.selection, rank, f"{standing.chosen:,}", score, standing.reason or ""]


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
    return f"{line[:MOST_PROMPT]} …" if len(line) > MOST_PROMPT else line


def _counts(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{inline(name)} {count:,}" for name, count in ordered[:MOST_COUNTS])
    return shown if len(ordered) <= MOST_COUNTS else f"{shown}, {len(ordered) - MOST_COUNTS} more"
