"""Sections of the page on results: losses by method and target, a search, rows to read, rejected rows, cost."""

from collections.abc import Mapping, Sequence

from instsel.console import printable
from instsel.data.messages import Message
from instsel.report.comparison import NO_RESULTS, loss_note
from instsel.report.facts import Reading, ReadingRow, RejectedRows, SearchFacts, StageCost, StudyFacts, TrialFacts
from instsel.report.headline import (
    interval_text,
)
from instsel.report.markdown import reason_counts
from instsel.report.near_copies import near_copies_sentences
from instsel.report.page.comparison import accuracy_parts, compared_parts
from instsel.report.page.curve import curve_parts
from instsel.report.page.parts import (
    Cell,
    Chart,
    File,
    ReadingList,
    Row,
    Section,
    Table,
    Text,
    bars,
    count,
    label,
    number,
    rounded,
)
from instsel.report.page.spending import spending_parts
from instsel.report.reading import Texts
from instsel.report.text import setting_text
from instsel.stats import MEAN

MOST_LETTERS = 2500
"""Letters of a turn that are shown; the whole text is in selected.jsonl."""

MOST_ROW_LETTERS = 4000
"""Letters of a row after which no further turn is shown."""

MOST_PICKS = 6
FIRST = 3
MOST_STAGES = 12


def results_section(facts: StudyFacts) -> Section:
    """Show accuracies, losses and differences of methods, the first section of the page."""
    parts: list[Table | Chart | Text] = []
    if facts.accuracy is not None:
        parts += accuracy_parts(facts.accuracy)
    if facts.losses:
        parts += compared_parts(facts, loss_note(facts.searched_share))
    parts += curve_parts(facts)
    parts += spending_parts(facts)
    return Section("results", "Results", parts or [Text([NO_RESULTS])])


def comparison(studies: Sequence[StudyFacts]) -> Table:
    """Lay out every method of several studies: its mean loss, the difference to its baseline, each target's loss."""
    targets = list(dict.fromkeys(target for facts in studies for target in facts.heldout_rows))
    rows = []
    for index, facts in enumerate(studies):
        for name in facts.by_mean:
            losses, is_best = facts.losses[name], name in facts.not_told_apart
            difference = interval_text(facts.differences.get(name, {}).get(MEAN), facts.measure)
            rows.append(
                [
                    Cell(name, name, is_best),
                    Cell(facts.study, index),
                    count(facts.pool.rows if facts.pool else None),
                    number(losses[MEAN], 3, best=is_best, small=difference),
                    *(number(losses.get(target), 3) for target in targets),
                ]
            )
    note = (
        "The methods of each study that are not told apart from its best are marked. Losses compare across studies "
        "only where held-out rows are the same."
    )
    return Table(["method", "study", "pool", MEAN, *targets], rows, note=note)


def search_section(facts: StudyFacts) -> Section | None:
    """Show the Pareto set, which keys mattered, and the trials of a search; None without a search."""
    search = facts.search
    if search is None or not search.trials:
        return None
    parts: list[Table | Chart] = [pareto_chart(search)]
    if search.importance:
        by_share = dict(sorted(search.importance.items(), key=lambda item: -item[1]))
        shares = {"share of the objective's spread": list(by_share.values())}
        parts.append(bars("What mattered", list(by_share), shares, form=".0%"))
    parts.append(_trials(search.trials))
    return Section("search", "Search", parts)


def pareto_chart(search: SearchFacts) -> Chart:
    """Draw objective against tokens trained on of every trial that ended, the Pareto set joined by a line."""
    ended = [trial for trial in search.trials if trial.ended]
    groups = {
        "Pareto set": sorted((trial for trial in ended if trial.pareto), key=lambda trial: trial.tokens),
        "other trials": [trial for trial in ended if not trial.pareto],
    }
    traces = [
        {
            "type": "scatter",
            "mode": "lines+markers" if name == "Pareto set" else "markers",
            "name": name,
            "x": [trial.tokens for trial in trials],
            "y": rounded([trial.objective for trial in trials]),
            "text": ["<br>".join(label(f"{key} {setting_text(value)}") for key, value in trial.point.items())
                     for trial in trials],
            "hovertemplate": "%{y:.3f} at %{x:,} tokens<br>%{text}<extra></extra>",
            "marker": {"size": 9},
        }
        for name, trials in groups.items()
    ]  # fmt: skip
    layout = {
        "xaxis": {"title": {"text": "tokens trained on"}},
        "yaxis": {"title": {"text": "objective"}},
        "showlegend": True,
    }
    note = "No other trial has both fewer tokens and a lower objective than a trial of the Pareto set."
    return Chart("Pareto set", traces, layout, 380, note)


def _trials(trials: Sequence[TrialFacts]) -> Table:
    keys = list(dict.fromkeys(key for trial in trials for key in trial.point))
    rows = []
    for trial in trials:
        values = [trial.point.get(key) for key in keys]
        state = "failed" if trial.failed else "stopped" if trial.stopped else "Pareto" if trial.pareto else ""
        rows.append(
            [
                Cell(trial.name[:6], trial.name, small=state),
                number(trial.objective, 3, best=trial.pareto),
                count(trial.tokens),
                *(Cell(setting_text(v), v if isinstance(v, int | float) else str(v)) for v in values),
            ]
        )
    return Table(["trial", "objective", "tokens", *keys], rows, title="Trials")


def reading_section(facts: StudyFacts, texts: Texts) -> Section:
    """Show rows to read by target, then by selection."""
    if not facts.reading.rows:
        return Section("rows", "Rows to read", [Text(["No selection is made yet."])])
    # Those of a method's further seeds are left to the selections' own files.
    further = {name for names in facts.arms.values() for name in names[1:]}
    groups = _reading_groups(facts.reading, [name for name in facts.selections if name not in further], texts)
    lead = (
        "Help is the mean influence on a target's validation rows, in deviations of the pool above the pool's mean."
        if facts.reading.best
        else ""
    )
    return Section("rows", "Rows to read", [ReadingList(groups)], lead)


def _reading_groups(reading: Reading, selections: Sequence[str], texts: Texts) -> dict[str, list[Row]]:
    groups = {f"{target}: the picks that help it most": ids for target, ids in reading.best.items()}
    for selection in selections:
        ranks = sorted(
            (pick.rank, name) for name, row in reading.rows.items() for pick in row.picks if pick.selection == selection
        )
        groups[f"{selection}: first picks"] = [name for _, name in ranks[:FIRST]]
    return {
        title: [_row(name, reading.rows[name], texts.get(name, [])) for name in ids]
        for title, ids in groups.items()
        if ids
    }


def rejected_section(facts: StudyFacts) -> Section:
    """Show how many rows were rejected and why."""
    rejected: RejectedRows = facts.rejected
    if not rejected.counts:
        return Section("rejected", "Rejected rows", [Text(["No row was rejected."])])
    counts = [[Cell(reason, reason), count(rows)] for reason, rows in rejected.counts.items()]
    groups: dict[str, list[Row]] = {}
    for row in rejected.examples:
        name = f"{row.file}, line {row.line}" if row.line is not None else "a row of the pool"
        groups.setdefault(row.reason, []).append(Row(name, row.reason, [], [("text", _cut(row.text))]))
    files = [
        [Cell(uri, uri), count(file.rows), Cell(why := reason_counts(file.rejected), why)]
        for uri, file in rejected.files.items()
    ]
    tables = [
        Table(["reason", "rows"], counts),
        *([Table(["file", "usable rows", "rejected"], files)] if files else []),
    ]
    return Section("rejected", "Rejected rows", [*tables, ReadingList(groups)])


def near_copies_section(facts: StudyFacts) -> Section | None:
    """Show how many rows are nearly the same, in words and in meaning, and some of them one below the other."""
    copies = facts.near_copies
    if copies is None:
        return None
    counts = [[Cell(source, source), count(rows)] for source, rows in copies.sources.items()]
    semantic = copies.semantic.examples if copies.semantic is not None else []
    groups = {
        title: [
            Row(
                f"{number(each.similarity).text}: {each.id} and {each.other}",
                f"{each.source}, {each.other_source}",
                [],
                [("a", _cut(each.other_text)), ("b", _cut(each.text))],
            )
            for each in examples
        ]
        for title, examples in (("nearly the same words", copies.examples), ("nearly the same meaning", semantic))
        if examples
    }
    tables = [Table(["source", "near-copies"], counts)] if counts else []
    return Section("near-copies", "Near-copies", [Text(near_copies_sentences(copies)), *tables, ReadingList(groups)])


def _row(name: str, row: ReadingRow, messages: Sequence[Message]) -> Row:
    notes = []
    if row.helps:
        helps = sorted(row.helps.items(), key=lambda item: -(item[1] or 0.0))
        notes.append("helps " + ", ".join(f"{target} {number(value).text}" for target, value in helps))
    notes += [
        f"{pick.selection}: pick {pick.rank:,}, score {number(pick.score, 3).text}, {pick.reason}"
        for pick in row.picks[:MOST_PICKS]
    ]
    rest = [pick.selection for pick in row.picks[MOST_PICKS:]]
    if rest:
        notes.append(f"and of {len(rest)} more: {', '.join(rest)}")
    task = f"/{row.task}" if row.task else ""
    return Row(name, f"{row.source}{task}, {row.tokens:,} tokens", notes, _turns(messages))


def _turns(messages: Sequence[Message]) -> list[tuple[str, str]]:
    turns: list[tuple[str, str]] = []
    for message in messages:
        if sum(len(text) for _, text in turns) > MOST_ROW_LETTERS:
            return [*turns, ("…", f"{len(messages) - len(turns):,} more turns")]
        turns.append((message["role"], _cut(message["content"])))
    return turns


def _cut(text: str) -> str:
    """Make a text safe to show and short enough for the page."""
    shown = printable(text)
    if len(shown) <= MOST_LETTERS:
        return shown
    return f"{shown[:MOST_LETTERS]} … ({len(shown) - MOST_LETTERS:,} more letters)"


def cost_section(facts: StudyFacts) -> Section:
    """Show time, tokens a second, memory and repeated rows of every stage; versions; the study file."""
    parts: list[Table | Chart | Text | File] = []
    if facts.cost:
        parts += [_times(facts.cost), _costs(facts)]
    parts.append(Text([", ".join(f"{name} {version}" for name, version in facts.provenance.versions.items())]))
    parts.append(File("The study file, with every default", facts.provenance.study_file))
    return Section("cost", "Cost and provenance", parts)


def _times(cost: Mapping[str, StageCost]) -> Chart:
    seconds: dict[str, float] = {}
    for name, stage in cost.items():
        group = name.partition("/")[0]
        seconds[group] = seconds.get(group, 0.0) + stage.seconds
    total = sum(seconds.values())
    sum_text = f"{total / 3600:.1f} hours" if total >= 7200 else f"{total / 60:.1f} minutes"
    return bars("Time by stage", list(seconds), {"seconds": list(seconds.values())}, axis=f"seconds; all {sum_text}")


def _costs(facts: StudyFacts) -> Table:
    rows = []
    for index, (name, cost) in enumerate(facts.cost.items()):
        speed = round(cost.tokens / cost.seconds) if cost.tokens and cost.seconds else None
        peak, fingerprint = cost.peak_memory_bytes, facts.provenance.stages[name]
        rows.append(
            [
                Cell(name, index),
                number(cost.seconds, 1),
                count(cost.tokens or None),
                count(speed),
                Cell(f"{peak / 2**30:.2f} GiB", peak) if peak else Cell("–"),
                count(cost.rows_reprocessed),
                Cell(fingerprint, fingerprint),
            ]
        )
    head = ["stage", "seconds", "tokens", "tokens/s", "peak memory", "rows again", "fingerprint"]
    return Table(head, rows, title="Every stage", folded=len(rows) > MOST_STAGES)
