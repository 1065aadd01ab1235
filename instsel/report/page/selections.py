"""Sections of the page on selections: composition, influence, divided budgets, mixtures, orders of training."""

from collections.abc import Sequence

from instsel.console import one_line
from instsel.report.collect import DIVIDED_BY
from instsel.report.facts import (
    DividedBudget,
    InfluenceFacts,
    OrderFacts,
    StudyFacts,
)
from instsel.report.page.parts import (
    Cell,
    Chart,
    Matrix,
    Section,
    Table,
    Text,
    bars,
    count,
    graph,
    heatmap,
    labels,
    lines,
    name_cell,
    number,
    share,
    stacked_bars,
)
from instsel.report.text import agreement_sentence, by_level, dependency_sentences, dual_sentences, selection_notes
from instsel.study.results import DependencyResult, InteractionResult, MixtureShares

POOL = "pool"
TITLES = {"source": "By source", "task": "By task", "category": "By category", "length": "By length, in tokens"}
MOST_LINES = 5
MOST_RUNS = 6
PARTS = {"g2is": "principal components (G2IS)", "smart": "tasks (SMART)"}
WEIGHTS = {"g2is": "share of the variance", "smart": "gain of the task"}
SCORES = {
    "g2is": "A score is the cosine with the row before; of first and filled in rows, with the component.",
    "smart": "A score is the pick's gain within its task.",
}
ORIGINS = {
    "g2is": "A component has the share of the budget that it has of the variance which all of them explain.",
    "smart": "The gain of a task, in the order of the greedy walk over tasks, gave it its share.",
}


def composition_section(facts: StudyFacts) -> Section:
    """Show sources, tasks, categories and lengths of selections against the pool, and what selections share."""
    if not facts.composition:
        return Section("composition", "What was selected", [Text(["The pool is not prepared yet."])])
    parts: list[Table | Chart | Text] = [_lengths(facts)]
    notes = {name: selection_notes(selection).strip() for name, selection in facts.selections.items()}
    if any(notes.values()):
        parts.append(Text([f"{name}: {note}" for name, note in notes.items() if note]))
    for facet, composition in facts.composition.items():
        columns = {POOL: composition.pool, **composition.selections}
        totals = {column: sum(counts) for column, counts in columns.items()}
        series = {
            name: [counts[index] / totals[column] if totals[column] else 0 for column, counts in columns.items()]
            for index, name in enumerate(composition.names)
        }
        parts.append(stacked_bars(TITLES[facet], list(columns), series))
        rows = [
            [name_cell(name), *(share(counts[index], totals[column]) for column, counts in columns.items())]
            for index, name in enumerate(composition.names)
        ]
        parts.append(Table([facet, *columns], rows, title="As a table", folded=True))
    names = facts.overlap.names
    if len(names) > 1:
        note = "Of the rows of the selection on the left, the share that the selection above has too."
        parts.append(heatmap("Overlap", Matrix(names, names, facts.overlap.shares), form=".0%", note=note))
    return Section("composition", "What was selected", parts)


def _lengths(facts: StudyFacts) -> Table:
    rows = [
        [
            name_cell(name),
            count(lengths.rows),
            count(lengths.tokens),
            number(lengths.mean, 1),
            *(number(quartile, 0) for quartile in lengths.quartiles),
        ]
        for name, lengths in facts.lengths.items()
    ]
    head = ["selection", "rows", "tokens", "mean length", "quarter below", "half below", "three quarters below"]
    return Table(head, rows, note="Length of a row in tokens, its prompt counted.")


def influence_section(facts: StudyFacts) -> Section | None:
    """Show influence before and after normalisation as BIDS draws it; None where the study stored none."""
    influence = facts.influence
    if influence is None:
        return None
    lead = (
        f"By the stored influence {influence.attribution}. Normalised means that the influence on each validation row "
        "has the pool's mean 0 and deviation 1, so that no row counts more because its gradients are larger."
    )
    raw, normal = (Matrix(influence.sources, influence.targets, means) for means in (influence.raw, influence.normal))
    parts: list[Table | Chart] = [
        heatmap("Mean influence of sources on targets", raw, diverging=True, form=".2g"),
        heatmap("The same, normalised", normal, diverging=True),
    ]
    if influence.selections:
        order = _best_first(facts, influence)
        parts += [_balance(influence), *_thi(influence, order), *_aid(influence, order)]
    return Section("influence", "Influence", parts, lead)


def _best_first(facts: StudyFacts, influence: InfluenceFacts) -> list[str]:
    """Order selections: of the best method first, then random's, then the others."""
    methods = [name for name in (facts.best, facts.baseline, *facts.by_mean) if name]
    ranked = [name for method in methods for name in (method, *facts.runs.get(method, [])[:1])]
    return list(dict.fromkeys([*(name for name in ranked if name in influence.selections), *influence.selections]))


def _balance(influence: InfluenceFacts) -> Chart:
    note = (
        "Mean normalised influence of each selection on each target, in deviations of the pool. A balanced selection "
        "has no cold column."
    )
    values = [selection.balance for selection in influence.selections.values()]
    matrix = Matrix(list(influence.selections), influence.targets, values)
    return heatmap("Balance over targets", matrix, diverging=True, note=note)


def _thi(influence: InfluenceFacts, order: Sequence[str]) -> list[Table | Chart]:
    """Show how many rows of a selection have their highest influence on each target."""
    targets, selections = influence.targets, [influence.selections[name] for name in order]
    note = "Rows of each selection by the target on which their influence, summed over its validation rows, is highest."
    parts: list[Table | Chart] = []
    for title, counts in (
        ("Task with the highest influence (THI)", [selection.thi_raw for selection in selections]),
        ("THI, normalised", [selection.thi_normal for selection in selections]),
    ):
        series = {target: [rows[index] / max(1, sum(rows)) for rows in counts] for index, target in enumerate(targets)}
        parts.append(stacked_bars(title, order, series, note))
    rows = [
        [
            name_cell(name),
            *(number(rows, 0) for rows in (*selection.thi_raw, *selection.thi_normal)),
            *map(number, selection.balance),
        ]
        for name, selection in zip(order, selections, strict=True)
    ]
    head = ["selection", *(f"{what} {target}" for what in ("THI", "THI normalised", "balance") for target in targets)]
    return [*parts, Table(head, rows, title="As a table", folded=True)]


def _aid(influence: InfluenceFacts, order: Sequence[str]) -> list[Chart]:
    """Draw the average influence distribution: the mean influence of a selection on every validation row."""
    columns, targets, shown = influence.columns, influence.targets, order[:MOST_LINES]
    names = [*shown, *(name for name in influence.selections if name not in shown)]
    by_target = sorted(range(len(columns)), key=lambda column: columns[column])
    starts = [sum(name < target for name in columns) for target in targets]
    sizes = [columns.count(target) for target in targets]
    axis = {
        "tickvals": [start + size / 2 for start, size in zip(starts, sizes, strict=True)],
        "ticktext": labels(targets),
        "automargin": True,
        "showgrid": False,
    }
    shapes = [
        {"type": "line", "x0": x - 0.5, "x1": x - 0.5, "yref": "paper", "y0": 0, "y1": 1, "line": {"width": 0.5}}
        for x in starts[1:]
    ]
    note = "Mean influence of a selection on each validation row, by target. Names in the legend switch lines on."
    layout, across = {"xaxis": axis, "shapes": shapes}, list(range(len(columns)))
    charts = []
    for title, aid in (
        ("Average influence distribution (AID)", {name: influence.selections[name].aid_raw for name in names}),
        ("AID, normalised", {name: influence.selections[name].aid_normal for name in names}),
    ):
        series = {name: (across, [values[column] for column in by_target]) for name, values in aid.items()}
        charts.append(lines(title, series, layout, shown=shown, note=note))
    return charts


def budgets_section(facts: StudyFacts) -> Section | None:
    """Show the budgets of G2IS's components and SMART's tasks; None where no selection divides its budget."""
    if not facts.budgets:
        return None
    parts = [part for name, budget in facts.budgets.items() for part in _budget(name, budget)]
    return Section("budgets", "How budgets were divided", parts)


def _budget(name: str, budget: DividedBudget) -> list[Table | Chart]:
    method, parts = budget.method, budget.parts
    shown = [part.name.removeprefix(f"{DIVIDED_BY[method]} ") for part in parts]
    weighted = any(part.weight is not None for part in parts)
    rows = [
        [
            Cell(part.name, index),
            *([number(part.weight, 3)] if weighted else []),
            count(part.rows),
            count(part.tokens),
            *(number(score, 3) for score in (part.gain, part.first, part.last)),
        ]
        for index, part in enumerate(parts)
    ]
    weight = [WEIGHTS[method]] if weighted else []
    head = ["part", *weight, "rows", "tokens", "sum of scores", "first score", "last score"]
    note = f"In the order of their first picks. {SCORES[method]}" + (f" {ORIGINS[method]}" if weighted else "")
    chart = bars(f"{name}: budget by {PARTS[method]}", shown, {"rows": [part.rows for part in parts]}, axis="rows")
    return [chart, Table(head, rows, title="As a table", note=note, folded=True)]


def orders_section(facts: StudyFacts) -> Section | None:
    """Show the share of each level along the training; None where no training has an order of its own."""
    if not facts.orders:
        return None
    layout = {"xaxis": {"title": {"text": "rows trained on"}}, "yaxis": {"tickformat": ".0%", "range": [0, 1]}}
    parts = [
        lines(run, {level: (order.rows, shares) for level, shares in order.shares.items()}, layout, stacked=True)
        for run, order in _first_seeds(facts).items()
    ]
    return Section("curriculum", "Order of training", parts, "The share of each level along the training.")


def _first_seeds(facts: StudyFacts) -> dict[str, OrderFacts]:
    """Keep the first seed of each method: the others differ by the shuffle alone."""
    first = [names[0] for names in facts.runs.values()]
    kept = [name for name in facts.orders if name in first] or list(facts.orders)
    return {name: facts.orders[name] for name in kept[:MOST_RUNS]}


def mixture_section(facts: StudyFacts) -> Section | None:
    """Show gamma with its uncertainty, levels, shares before and after, and duals; None without categories."""
    if not facts.interaction:
        return None
    parts: list[Table | Chart | Text] = []
    for estimator, interaction in facts.interaction.items():
        parts += _gamma(f"Gamma by {estimator}", interaction)
        if interaction.dependency is not None:
            parts += _dependency(interaction.dependency)
    parts += [Text([agreement_sentence(name, agreement)]) for name, agreement in facts.agreement.items()]
    if facts.categories:
        rows = [[name_cell(name), count(size.rows), count(size.tokens)] for name, size in facts.categories.items()]
        parts.append(Table(["category", "rows", "tokens"], rows, title="Categories", folded=True))
    for names, mixture in _distinct(facts):
        parts += _mixture(", ".join(names), mixture)
    return Section("mixture", "Mixture", parts)


def _distinct(facts: StudyFacts) -> list[tuple[list[str], MixtureShares]]:
    """Pair each mixture with the selections that keep to it: those of a method's seeds are the same."""
    distinct: list[tuple[list[str], MixtureShares]] = []
    for name, mixture in facts.mixtures.items():
        names = next((names for names, other in distinct if other == mixture), None)
        if names is None:
            distinct.append(([name], mixture))
        else:
            names.append(name)
    return distinct


def _gamma(title: str, interaction: InteractionResult) -> list[Table | Chart]:
    names, gamma, errors = interaction.categories, interaction.gamma, interaction.error
    note = (
        "What one added row of the category on the left is worth for the category above, in rows of that category, "
        "with standard errors."
    )
    chart = heatmap(title, Matrix(names, names, gamma, errors), diverging=True, note=note)
    rows = []
    for added, row, row_errors in zip(names, gamma, errors, strict=True):
        pairs = zip(row, row_errors, strict=True)
        cells = [number(value, 3, small=f"± {error:.3f}" if error else "") for value, error in pairs]
        rows.append([name_cell(added), *cells])
    return [chart, Table(["added", *names], rows, title="As a table", folded=True)]


def _mixture(name: str, mixture: MixtureShares) -> list[Table | Chart | Text]:
    shares = mixture.categories.values()
    series = {"before": [share.start for share in shares], "after": [share.weight for share in shares]}
    rows = [
        [
            name_cell(category),
            Cell(f"{share.start:.1%}", share.start),
            Cell(f"{share.weight:.1%}", share.weight),
            count(share.rows),
            number(share.importance),
            number(share.worth, 3),
        ]
        for category, share in mixture.categories.items()
    ]
    head = ["category", "before", "after", "rows", "importance", "worth of a row"]
    return [
        bars(f"{name}: shares before and after", list(mixture.categories), series, form=".0%"),
        Text(dual_sentences(mixture, one_line)),
        Table(head, rows, title="As a table", folded=True),
    ]


def _dependency(dependency: DependencyResult) -> list[Chart | Text]:
    columns = by_level(dependency)
    arrows = [(pair.needs, pair.category) for pair in dependency.needs]
    note = "An arrow goes from a category to those that need it."
    levels = "; ".join(f"{level}: {', '.join(names)}" for level, names in columns.items() if names)
    return [
        graph("Which category needs which", columns, arrows, note=note),
        Text([f"Levels: {levels}.", *dependency_sentences(dependency, one_line)]),
    ]
