"""Facts about a study that is to run on this cluster: its rows, and the pace of every stage that is not done."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from instsel.choice.budget import Budget
from instsel.config.mixture import ColumnCategories, EndpointCategories, Mixture
from instsel.config.study import Resources, StudyConfig
from instsel.console import Terminal
from instsel.planner.elsewhere import TargetCluster
from instsel.planner.facts import Facts, Throughput
from instsel.planner.processes import EncoderProcess
from instsel.planner.rows import RowSet
from instsel.planner.sample import KEPT, Part, Rows, prepared_rows, sampled_rows
from instsel.planner.selector_times import selector_seconds
from instsel.planner.stopwatch import Stopwatch
from instsel.runtime.session import peak_memory, plan_resources
from instsel.selection.base import Method
from instsel.selection.cost import Shape
from instsel.study.attribution_specs import attribution_specs
from instsel.study.dependencies import training_of_runs
from instsel.study.folder import StageFolder
from instsel.study.graph import StageGraph
from instsel.study.results import RowCount

CHOSEN_BYTES = 256  # a chosen row in the files of *select*, messages and tokens left out


def measure(
    study: StudyConfig,
    graph: StageGraph,
    todo: Mapping[str, Sequence[str]],
    terminal: Terminal,
    elsewhere: TargetCluster,
) -> tuple[Facts, int]:
    """Count the rows and time the stages in `todo`; also the memory of the smallest machine that was met, bytes.

    Raises:
        InputError: the budget does not fit the pool, or rates that are at hand do not fit the study.
        StudyError: a batch could not be done.
    """
    # Where the processes of the study are known, what it asks for need not be here.
    share = plan_resources(study.resources if elsewhere.rates is None else Resources())
    rows = prepared_rows(graph["prepare"]) if graph["prepare"].done() else sampled_rows(study, terminal)
    terminal.say(rows.told)
    pool, validation, heldout = ([part.rows for part in parts] for parts in (rows.pool, rows.validation, rows.heldout))
    facts = Facts(
        pool,
        validation,
        heldout,
        todo,
        _chosen(study, pool),
        subtasks=_subtasks(study, rows.validation),
        categories=_categories(study.mixture, rows),
        influences=attribution_specs(study),
        prepare_seconds=rows.seconds,
        prepare_bytes=rows.disk,
        prepare_memory=rows.memory,
        chosen_bytes=CHOSEN_BYTES + rows.reading.messages / rows.reading.rows,
    )
    # Before anything is timed here: what the driver of the study has, too.
    base = peak_memory()
    stopwatch = Stopwatch(study, share, terminal, elsewhere)
    if todo.get("attribution"):
        stopwatch.attribution(facts)
    _time_batches(study, todo, rows, stopwatch)
    for name, training in (("warmup", study.warmup), ("finetune", study.finetune)):
        if todo.get(name):
            stopwatch.training(name, rows.pool, training)
    runs = [part for part in todo.get("interaction", ()) if part != "gradients"]
    if runs and study.mixture is not None:
        stopwatch.training("interaction", rows.pool, training_of_runs(study, study.mixture))
    selections = _selections(study, graph, rows, replace(facts, paces=stopwatch.paces), base)
    known = replace(
        facts,
        checkpoint_bytes=stopwatch.checkpoint_bytes,
        paces={**stopwatch.paces, **selections},
        fisher=stopwatch.fisher,
    )
    return known, stopwatch.machine


def _subtasks(study: StudyConfig, validation: Sequence[Part]) -> int:
    divided = zip(study.targets.values(), validation, strict=True)
    return sum(len(set(part.read()["task"].to_pylist())) if target.subtask else 1 for target, part in divided)


def _categories(mixture: Mixture | None, rows: Rows) -> int:
    """Categories of the pool, those counted that will be too small to be measured."""
    if mixture is None:
        return 0
    how = mixture.categories
    if isinstance(how, ColumnCategories):
        return len(rows.groups[how.by])
    if isinstance(how, EndpointCategories) and how.labels is not None:
        return len(how.labels)
    return how.count


def _chosen(study: StudyConfig, pool: Sequence[RowSet]) -> int:
    """Rows of a selection; of a budget of tokens as many as it holds of mean length."""
    whole = RowCount(rows=sum(part.rows for part in pool), tokens=round(sum(part.tokens for part in pool)))
    budget = Budget(study.selection.budget, study.selection.unit).of(whole)
    return max(1, int(budget.amount * whole.rows / (whole.rows if budget.unit == "rows" else whole.tokens)))


def _time_batches(study: StudyConfig, todo: Mapping[str, Sequence[str]], rows: Rows, stopwatch: Stopwatch) -> None:
    if todo.get("embed"):
        prompts = [Part(part.rows.prompts(study.embedding.max_length), part.read) for part in rows.pool]
        stopwatch.batches("embed", prompts, study.embedding.token_budget, process=EncoderProcess, columns=KEPT)
    budgets = {
        "hidden_states": study.features.token_budget,
        "likelihood": study.evaluation.token_budget,
        "features": study.features.token_budget,
        "evaluate": study.evaluation.token_budget,
    }
    for name, budget in budgets.items():
        parts = rows.heldout if name == "evaluate" else rows.pool
        wanted = todo.get(name) or (name == "features" and "gradients" in todo.get("interaction", ()))
        if wanted and parts:
            stopwatch.batches(name, parts, budget)


def _selections(study: StudyConfig, graph: StageGraph, rows: Rows, facts: Facts, base: int) -> dict[str, Throughput]:
    """The pace of every selection: the time of the choice, and then of reading the pool for the rows to write.

    `base` is the memory of this process before it timed anything, bytes.
    """
    methods = {run.selection: run.method for run in graph.runs.values()}
    read_back = rows.reading.seconds / rows.reading.rows
    found = {}
    for name in facts.todo.get("select", ()):
        method = methods[name]
        shape = _shape(study, graph, rows, facts, method)
        cost = method.cost(shape)
        found[f"select/{name}"] = Throughput(
            start=selector_seconds(method, shape, study.selection.unit),
            speed=1 / read_back,
            memory=base + cost.memory,
            scratch=cost.scratch,
        )
    return found


def _shape(study: StudyConfig, graph: StageGraph, rows: Rows, facts: Facts, method: Method) -> Shape:
    """What a method chooses from."""
    part = study.selection
    spec = method.attribution_spec(part.attribution, part.damping)
    columns = sum(targets.rows for targets in facts.validation) if spec is None else facts.columns(spec)
    return Shape(
        rows=facts.rows,
        chosen=facts.chosen,
        columns=columns,
        checkpoints=study.warmup.epochs,
        dim=study.features.dim,
        embedding=_width(graph["embed"], facts) if method.requires == "embeddings" else 0,
        hidden=_width(graph["hidden_states"], facts) if method.requires == "hidden_states" else 0,
        groups=rows.groups,
        damping=None if spec is None else spec.damping,
    )


def _width(stage: StageFolder, facts: Facts) -> int:
    """Entries of a vector of a stage: as it was measured, or as its files have it where it is done."""
    if stage.name in facts.paces:
        return facts.paces[stage.name].width
    folder = stage.folder / "pool"
    first = next(name for name in folder.names() if name.endswith(".arrow"))
    size: int = folder.read_table(first).schema.field("embedding").type.list_size
    return size
