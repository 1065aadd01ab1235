"""report.md: the facts of a study, or of a search, as Markdown for a person to read. Charts are in report.html."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from instsel.console import inline
from instsel.mixture.categories import OTHER
from instsel.mixture.dependency import LEVELS
from instsel.report.comparison import accuracy_text, comparison_text, loss_note
from instsel.report.curve import curve_text
from instsel.report.facts import (
    AgreementFacts,
    SearchFacts,
    SelectionFacts,
    StageCost,
    StudyFacts,
    TrialFacts,
)
from instsel.report.gains import gains_report
from instsel.report.headroom import headroom_report
from instsel.report.markdown import (
    MOST_COLUMNS,
    NONE,
    composition_table,
    decimal,
    markdown_table,
    percent,
    reason_counts,
)
from instsel.report.near_copies import near_copies_text
from instsel.report.spending import spending_text
from instsel.study.results import DependencyResult, InteractionResult, MixtureShares

MOST_TASKS = 12
MOST_BOUNDS = 5
MOST_TRIALS = 20
# A constraint with a smaller dual limits nothing that anyone would notice.
LEAST_DUAL = 1e-6


def study_report(facts: StudyFacts) -> str:
    """Write the report of a study."""
    sections = [
        [f"# Study {facts.study}\n", _overview(facts)],
        accuracy_text(facts.accuracy) if facts.accuracy else [],
        comparison_text(facts, "Held-out loss", loss_note(facts.searched_share))
        if facts.losses or not facts.accuracy
        else [],
        curve_text(facts),
        gains_report(facts),
        headroom_report(facts.headroom, facts.confidence),
        spending_text(facts),
        _selections(facts),
        _served(facts),
        _categories(facts),
        near_copies_text(facts.near_copies),
        _cost(facts),
    ]
    return _joined(part for section in sections for part in section)


def _joined(parts: Iterable[str]) -> str:
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def budget_text(facts: StudyFacts) -> str:
    """Say how much of the pool a selection may have."""
    budgets = sorted(facts.budget) if isinstance(facts.budget, list) else [facts.budget]
    shares = ", ".join(percent(budget) if isinstance(budget, float) else f"{budget:,}" for budget in budgets)
    return f"{shares} of the pool's {facts.unit}" if isinstance(budgets[0], float) else f"{shares} {facts.unit}"


def _overview(facts: StudyFacts) -> str:
    size = f"; pool of {facts.pool.rows:,} rows, {facts.pool.tokens:,} tokens" if facts.pool else ""
    reasons = sorted(facts.rejected.counts.items(), key=lambda item: (-item[1], item[0]))
    lines = [
        f"Model `{facts.model}` in {facts.dtype}{size}; budget {budget_text(facts)}.",
        *(f"- warning: {inline(sentence)}" for sentence in facts.warnings),
        *([f"- not finished: {', '.join(facts.missing)}"] if facts.missing else []),
        *(f"- rejected rows: {count:,} x {inline(reason)}" for reason, count in reasons),
        *(
            f"- no usable row in {inline(uri)}: {inline(reason_counts(file.rejected))}"
            for uri, file in facts.rejected.files.items()
            if not file.rows
        ),
    ]
    return "\n".join(lines)


def _selections(facts: StudyFacts) -> list[str]:
    parts = ["## What was selected\n"]
    sources = {source: size.rows for source, size in facts.pool.sources.items()} if facts.pool else {}
    by_selection = {name: selection.sources for name, selection in facts.selections.items()}
    # A selection from an earlier pool, which the warnings name, may have more rows of a source than there are now.
    fits = all(rows <= sources.get(source, 0) for counts in by_selection.values() for source, rows in counts.items())
    if fits and len(by_selection) <= MOST_COLUMNS:
        parts.append(composition_table(by_selection, sources))
    for name, selection in facts.selections.items():
        tasks = sorted(selection.tasks.items(), key=lambda item: (-item[1], item[0]))[:MOST_TASKS]
        shown = ", ".join(f"{inline(task)} {count}" for task, count in tasks)
        most = f"; most from {shown}" if shown else ""
        parts.append(
            f"**{name}**: {selection.rows:,} rows, {selection.tokens:,} tokens{most}.{selection_notes(selection)}"
        )
    return parts


def selection_notes(selection: SelectionFacts) -> str:
    """Say which target chose how many rows, and what is trained on beside the rows selected, each once."""
    notes = []
    if selection.quotas is not None:
        by_target = ", ".join(f"{count:,} by {target}" for target, count in selection.quotas.items())
        notes.append(f" Chosen {by_target}.")
    if selection.training is not None:
        rows, validation = selection.training.rows, selection.validation
        which = f", {validation.rows:,} of them validation rows" if validation else ""
        notes.append(f" An epoch trains on {rows:,} rows and {selection.training.tokens:,} tokens{which}.")
    return "".join(notes)


def _served(facts: StudyFacts) -> list[str]:
    if facts.metrics is None or not facts.metrics.by_selection:
        return []
    targets = list(next(iter(facts.metrics.by_selection.values())).served)
    body = [
        [
            name,
            *(f"{metrics.served[target]:,} ({decimal(metrics.influence[target])})" for target in targets),
            f"{decimal(metrics.lowest)} to {decimal(metrics.highest)}",
            decimal(metrics.redundancy, 3),
        ]
        for name, metrics in facts.metrics.by_selection.items()
    ]
    note = (
        "Rows whose influence is highest on the target, and in brackets the mean influence of the whole selection on "
        "it, in deviations of the pool above the pool's mean; the same for the validation rows that it serves worst "
        "and best; the mean cosine of two gradients of the selection. "
        f"By {facts.metrics.attribution}."
    )
    table = markdown_table(["selection", *targets, "worst to best row", "redundancy"], body)
    return ["## Which targets each selection serves\n", table, note]


def _cost(facts: StudyFacts) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in facts.provenance.versions.items())
    note = f"{versions}; fingerprint {facts.provenance.fingerprint or NONE}."
    return ["## Cost\n", cost_table(facts.cost), note]


def cost_table(stages: Mapping[str, StageCost]) -> str:
    """Lay out what the stages took, in the order given: seconds, tokens, tokens a second and peak memory.

    Where any stage had to do work again, a column says of how many rows.

    Args:
        stages: stage to StageCost.

    Returns:
        A Markdown table that ends with a newline; its last row has the sum of the seconds and the highest peak.
    """
    again = sum(cost.rows_reprocessed for cost in stages.values())
    whole = StageCost(
        seconds=sum(cost.seconds for cost in stages.values()),
        peak_memory_bytes=max((cost.peak_memory_bytes for cost in stages.values()), default=0),
        rows_reprocessed=again,
    )
    header = ["stage", "seconds", "tokens", "tokens/s", "peak memory", "rows again"]
    columns = len(header) if again else len(header) - 1
    rows = [_cost_row(name, cost)[:columns] for name, cost in {**stages, "all": whole}.items()]
    return markdown_table(header[:columns], rows)


def _cost_row(name: str, cost: StageCost) -> list[str]:
    return [
        name,
        f"{cost.seconds:,.1f}",
        f"{cost.tokens:,}" if cost.tokens else NONE,
        f"{cost.tokens / cost.seconds:,.0f}" if cost.tokens and cost.seconds > 0 else NONE,
        f"{cost.peak_memory_bytes / 2**30:.2f} GiB" if cost.peak_memory_bytes else NONE,
        f"{cost.rows_reprocessed:,}",
    ]


def _categories(facts: StudyFacts) -> list[str]:
    """Write how categories help or harm each other, the mixtures that follow and the levels; empty without any."""
    if not facts.interaction:
        return []
    sizes = [[name, f"{size.rows:,}", f"{size.tokens:,}"] for name, size in facts.categories.items()]
    parts = ["## How categories help each other\n", markdown_table(["category", "rows", "tokens"], sizes)]
    for estimator, interaction in facts.interaction.items():
        parts += [f"### By {estimator}\n", _gamma(interaction)]
        if interaction.unknown:
            names = ", ".join(map(inline, interaction.unknown))
            parts.append(f"Unknown: the own rows of {names} do not clearly help them.")
    parts += [agreement_sentence(name, agreement) for name, agreement in facts.agreement.items()]
    for interaction in facts.interaction.values():
        if interaction.dependency is not None:
            levels = [[level, ", ".join(names) or NONE] for level, names in by_level(interaction.dependency).items()]
            parts += ["## Which category needs which\n", markdown_table(["level", "categories"], levels)]
            parts += dependency_sentences(interaction.dependency)
    if facts.mixtures:
        parts.append("## Mixture\n")
        for name, mixture in facts.mixtures.items():
            parts += [f"### {name}\n", _shares(mixture), " ".join(dual_sentences(mixture))]
    return parts


def _gamma(interaction: InteractionResult) -> str:
    body = [
        [added, *(_with_error(value, error) for value, error in zip(values, errors, strict=True))]
        for added, values, errors in zip(interaction.categories, interaction.gamma, interaction.error, strict=True)
    ]
    note = "What one added row (left) is worth for a category (above), in rows of that category, with standard errors."
    return f"{note}\n\n{markdown_table(['added', *interaction.categories], body)}"


def _with_error(value: float | None, error: float | None) -> str:
    if value is None:
        return "unknown"
    return decimal(value) if not error else f"{decimal(value)} ± {decimal(error)}"


def by_level(dependency: DependencyResult) -> dict[str, list[str]]:
    """Group categories by their level."""
    return {level: [name for name, its in dependency.levels.items() if its == level] for level in LEVELS}


def dependency_sentences(dependency: DependencyResult, show: Callable[[str], str] = inline) -> list[str]:
    """Say which category needs which.

    Args:
        dependency: of the categories.
        show: makes a category's name fit to stand in the sentence.
    """
    pairs = "; ".join(f"{show(pair.category)} needs {show(pair.needs)}" for pair in dependency.needs)
    cycles = [f"In a cycle: {', '.join(map(show, cycle))} need each other." for cycle in dependency.cycles]
    return [f"{pairs}." if pairs else "No removal clearly harms another category.", *cycles]


def agreement_sentence(name: str, agreement: AgreementFacts) -> str:
    """Say how well two estimates agree.

    Args:
        name: which estimates.
        agreement: of these.
    """
    if agreement.correlation is None:
        return f"{name}: too few entries are known by both to compare."
    within = (
        "" if agreement.within is None else f"; {decimal(agreement.within)} on average within an evaluated category"
    )
    interval = ""
    if agreement.low is not None and agreement.high is not None:
        interval = f" [{decimal(agreement.low)}, {decimal(agreement.high)}]"
    return (
        f"{name}: Spearman's rank correlation {decimal(agreement.correlation)}{interval} over {agreement.entries} "
        f"pairs of categories{within}."
    )


def dual_sentences(mixture: MixtureShares, show: Callable[[str], str] = inline) -> list[str]:
    """Say what the constraints of a mixture cost, a sentence each.

    Args:
        mixture: with its duals.
        show: makes a category's name fit to stand in the sentence.
    """
    gain = mixture.objective - mixture.start_objective
    duals, categories = mixture.duals, mixture.categories
    worth = f"A row of this mixture is worth {decimal(mixture.objective, 4)} rows of what counts"
    sentences = [f"{worth}, {decimal(gain, 4)} more than before."]
    if duals.max_shift > LEAST_DUAL:
        sentences.append(f"One more percent of trust region (max_shift) is worth {decimal(duals.max_shift / 100, 4)}.")
    else:
        sentences.append("A wider trust region (max_shift) would gain nothing.")
    # Only bounds of the user's, or of the pool: "other" keeps its share on purpose.
    full = _largest_duals(duals.upper, lambda name: categories[name].rows >= categories[name].capacity)
    raised = _largest_duals(duals.lower, lambda name: categories[name].floor > 0)
    return [
        *sentences,
        *(
            f"If the pool had more of {show(name)}, one more percent of it would be worth {gain}."
            for name, gain in full
        ),
        *(f"A floor of {show(name)} one percent lower would be worth {gain}." for name, gain in raised),
    ]


def _largest_duals(duals: Mapping[str, float], limits: Callable[[str], bool]) -> list[tuple[str, str]]:
    """Name the categories that a bound limits, the most first, with what one percent is worth."""
    limited = [name for name, dual in duals.items() if dual > LEAST_DUAL and limits(name) and name != OTHER]
    largest = sorted(limited, key=lambda name: -duals[name])[:MOST_BOUNDS]
    return [(name, decimal(duals[name] / 100, 4)) for name in largest]


def _shares(mixture: MixtureShares) -> str:
    body: list[Sequence[str]] = [
        [
            name,
            f"{share.start:.1%}",
            f"{share.weight:.1%}",
            f"{share.rows:,}",
            decimal(share.importance),
            decimal(share.worth, 3),
        ]
        for name, share in mixture.categories.items()
    ]
    return markdown_table(["category", "before", "after", "rows", "importance", "worth of a row"], body)


def search_report(facts: SearchFacts, study: str) -> str:
    """Write the report of a search.

    Args:
        facts: of the search.
        study: path of the study file that is best.
    """
    trials = facts.trials
    ended = [trial for trial in trials if trial.ended]
    failed = [trial for trial in trials if trial.failed]
    best = ended[0]
    targets = list(best.judged)
    counts = f"{len(trials)} trials, {len(trials) - len(ended) - len(failed)} stopped early, {len(failed)} failed"
    tokens = sum(trial.tokens for trial in trials)
    parts = [
        "# Search\n",
        f"{counts}; {tokens:,} tokens trained on. Best: `{study}`.\n",
        "## Best\n",
        _point(best) + "\n",
        markdown_table(
            ["rows", *targets, "mean"],
            [
                _trial_losses("searched by", best.searched, targets),
                _trial_losses("not searched by", best.judged, targets),
            ],
        ),
        f"The search saw {facts.share:.0%} of each target's held-out rows; the others judge it fairly.\n",
        "## Trials\n",
        _trials(trials, targets),
        "Pareto set: no other trial has fewer tokens and a lower objective; pareto.html draws it.\n",
    ]
    if facts.importance:
        body = [[key, f"{share:.0%}"] for key, share in facts.importance.items()]
        parts += ["## What mattered\n", markdown_table(["key", "share of the objective's spread"], body)]
    return _joined([*parts, *(f"- failed: {_point(trial)}: {trial.failed}" for trial in failed)])


def _trials(trials: Sequence[TrialFacts], targets: Sequence[str]) -> str:
    keys = list(trials[0].point)
    body = []
    for trial in trials[:MOST_TRIALS]:
        if trial.failed or trial.objective is None:
            continue
        note = "stopped" if trial.stopped else "Pareto" if trial.pareto else ""
        means = [_mean(losses, targets) for losses in (trial.searched, trial.judged)]
        values = [setting_text(trial.point[key]) for key in keys]
        body.append([trial.name[:6], *values, f"{trial.tokens:,}", decimal(trial.objective, 3), *means, note])
    return markdown_table(["trial", *keys, "tokens", "objective", "mean searched by", "mean of the others", ""], body)


def _trial_losses(name: str, losses: Mapping[str, float], targets: Sequence[str]) -> list[str]:
    return [name, *(decimal(losses[target], 3) for target in targets), _mean(losses, targets)]


def _mean(losses: Mapping[str, float], targets: Sequence[str]) -> str:
    return decimal(sum(losses[target] for target in targets) / len(targets), 3) if losses else NONE


def _point(trial: TrialFacts) -> str:
    return ", ".join(f"{key} {setting_text(value)}" for key, value in trial.point.items())


def setting_text(value: Any) -> str:
    """Write the value of a key of a search's space."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
