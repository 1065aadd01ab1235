"""Stage *search*: trials of a study with other methods, budgets, mixtures, orders and settings, by Ray Tune.

What is asked for and what comes out is kept as JSON, a file a point. Ray Tune could restore its searchers by itself,
but from pickles; so a search that is resumed gives a new searcher all known outcomes, and asks again for the trials
that were running.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.basic_variant import BasicVariantGenerator
from ray.tune.search.optuna import OptunaSearch

from instsel.config.search import Point, Range, Search
from instsel.config.study import StudyConfig
from instsel.console import Bar, Terminal
from instsel.errors import InputError, StudyError
from instsel.io.store import Folder
from instsel.pipeline.registry import build_graph
from instsel.runtime.errors import last_line
from instsel.runtime.tune import DRIVER, TrialCounter, plan_trial_resources, quiet_tune
from instsel.search.outcome import Outcome
from instsel.search.space import study_of
from instsel.search.trial import OUTCOME, OWNER, Progress, TrialStore, run_trial, trial_folder
from instsel.study.folder import StageFolder
from instsel.study.resources import ResourcePlan
from instsel.study.stage import RunContext
from instsel.tracking import tracked

TUNE = "tune"
TRIALS = "trials"
POINTS = "points"


def run(context: RunContext, stage: StageFolder) -> list[Outcome]:
    """Search, going on where an earlier call of the same search was stopped.

    Args:
        context: of the study, all stages before the selections done.
        stage: of this search, in the folder `search` of the study's.

    Returns:
        Every trial that came to something, the best first.

    Raises:
        StudyError: every trial failed.
    """
    config, console = context.config, context.console
    search = search_of(config)
    each, at_once = plan_trial_resources(context.resources, config.resources.trial_workers)
    # A trial that they ended would count as failed; `search.hours` ends a search.
    each = replace(each, ends_at=None)
    store = store_of(search, stage)
    _release(store.trials)
    known = store.outcomes()
    left = search.points - sum(outcome is not None for _, outcome in known)
    if left < search.points:
        console.say(f"{search.points - left} trials were there already")
    spent = sum(outcome.tokens for _, outcome in known if outcome is not None)
    if left > 0 and (search.tokens is None or spent < search.tokens):
        trial = partial(_trial, config=config, shared=context.folder, store=store, resources=each)
        with console.bar("search", left, "trials") as bar, quiet_tune(console):
            plan = _TunePlan(stage.folder, trial, at_once, left, known, spent, Marking(bar, store))
            results = _tuner(config, plan).fit()
        for index in range(len(results)):
            error = results[index].error
            store.end(results[index].config or {}, failed=None if error is None else last_line(error))
        (stage.folder / TUNE).remove()
    return finished_outcomes(store)


def search_of(config: StudyConfig) -> Search:
    """Return the key `search`, which studies have that are searched."""
    assert config.search is not None
    return config.search


def store_of(search: Search, stage: StageFolder) -> TrialStore:
    """Return the points of a search, in its stage's folder; the trials beside it."""
    return TrialStore(stage.folder / POINTS, stage.folder.parent / TRIALS, search)


def finished_outcomes(store: TrialStore) -> list[Outcome]:
    """Return every trial that ended, the best first.

    Raises:
        StudyError: none came to its end.
    """
    outcomes = [outcome for _, outcome in store.outcomes() if outcome is not None]
    if not any(np.isfinite(outcome.objective) and not outcome.stopped for outcome in outcomes):
        reasons = sorted({outcome.failed for outcome in outcomes if outcome.failed})
        raise StudyError(f"search: no trial came to its end: {'; '.join(reasons) or 'the caps left no time'}")
    return sorted(outcomes, key=lambda outcome: (outcome.stopped, outcome.objective, outcome.name))


def _trial(point: Point, config: StudyConfig, shared: Folder, store: TrialStore, resources: ResourcePlan) -> None:
    """Run a trial, in its process. A point that has ended, which some searchers ask for again, answers at once."""
    point = dict(point)
    entry = store.asked(point)
    if entry is not None and (outcome := store.outcome(entry)) is not None:
        tune.report({"objective": outcome.objective, "epoch": 1, "tokens": 0})
        return
    try:
        trial_config = study_of(config, point)
    except InputError as error:
        store.note(point, None, {"failed": str(error), "last": True, "stopped": False})
        tune.report({"objective": float("inf"), "epoch": 1, "tokens": 0})
        return
    folder = trial_folder(trial_config, shared, store.trials, tune.get_context().get_trial_id())
    name = folder.name
    store.note(point, name, None)

    def report(progress: Progress) -> None:
        store.note(point, name, progress)
        if progress["last"] and not progress["failed"]:
            # The losses of its steps are logged where it is trained.
            with tracked(trial_config, folder, name, point) as tracker:
                tracker.log({"objective": progress["objective"], "tokens": progress["tokens"]}, progress["epoch"])
        objective = float("inf") if progress["failed"] else progress["objective"]
        tune.report({"objective": objective, "epoch": progress["epoch"], "tokens": progress["tokens"]})

    graph = build_graph(trial_config, shared, folder)
    run_trial(RunContext(trial_config, graph, resources, Terminal()), search_of(config), folder, report)


def _release(trials: Folder) -> None:
    """Take their owners from trials that an earlier call left under way."""
    for name in trials.names():
        if not (trials / name).exists(OUTCOME) and (trials / name).exists(OWNER):
            (trials / name).delete(OWNER)


@dataclass(frozen=True)
class _TunePlan:
    """What Ray Tune is to run: the trial, how many at once, how many are left, and the known outcomes of points."""

    folder: Folder
    trial: Any
    at_once: int
    left: int
    known: Sequence[tuple[Point, Outcome | None]]
    spent: int
    counting: TrialCounter


def _tuner(config: StudyConfig, plan: _TunePlan) -> tune.Tuner:
    search = search_of(config)
    (plan.folder / TUNE).remove()
    trainable: Any = tune.with_resources(plan.trial, DRIVER)
    space = {key: _domain(values, search) for key, values in search.space.items()}
    by_optuna = search.searcher == "optuna"
    samples = 1 if search.searcher == "grid" else plan.left if by_optuna else search.trials
    return tune.Tuner(
        trainable,
        # A searcher that knows of points has the space already.
        param_space={} if by_optuna else space,
        tune_config=tune.TuneConfig(
            metric="objective",
            mode="min",
            num_samples=samples,
            max_concurrent_trials=plan.at_once,
            search_alg=_optuna(search, space, plan.known) if by_optuna else _in_turn(search, plan.at_once),
            scheduler=_scheduler(config, search),
            time_budget_s=None if search.hours is None else search.hours * 3600,
        ),
        run_config=tune.RunConfig(
            name=TUNE,
            storage_path=plan.folder.path,
            storage_filesystem=plan.folder.retrying_filesystem(),
            failure_config=tune.FailureConfig(max_failures=config.resources.max_failures),
            callbacks=[plan.counting],
            stop=None if search.tokens is None else TokenCap(search.tokens - plan.spent),
            verbose=0,
        ),
    )


def _in_turn(search: Search, at_once: int) -> BasicVariantGenerator:
    """Return a searcher of points at random or of a grid, which ignores Ray Tune's own cap of concurrent trials."""
    return BasicVariantGenerator(max_concurrent=at_once, random_state=search.seed)


def _domain(values: Any, search: Search) -> Any:
    """Return a key of the space as Ray Tune has it."""
    if not isinstance(values, Range):
        return tune.grid_search(values) if search.searcher == "grid" else tune.choice(values)
    if isinstance(values.low, int) and isinstance(values.high, int):
        draw: Any = tune.lograndint if values.log else tune.randint
        return draw(values.low, values.high + 1)
    draw = tune.loguniform if values.log else tune.uniform
    return draw(values.low, values.high)


def _optuna(search: Search, space: Mapping[str, Any], asked: Sequence[tuple[Point, Outcome | None]]) -> OptunaSearch:
    """Return a searcher that knows all outcomes so far, and first tries the points that are unfinished."""
    unfinished = [dict(point) for point, outcome in asked if outcome is None]
    searcher = OptunaSearch(
        OptunaSearch.convert_search_space(dict(space)),
        metric="objective",
        mode="min",
        # Another draw in each call: the same seed would ask for the same points again.
        seed=search.seed + len(asked),
        points_to_evaluate=unfinished or None,
    )
    for point, outcome in asked:
        if outcome is not None and np.isfinite(outcome.objective):
            searcher.add_evaluated_point(dict(point), outcome.objective)
    return searcher


def _scheduler(study: StudyConfig, search: Search) -> ASHAScheduler | None:
    if search.early_stopping == "none":
        return None
    epochs = search.space.get("finetune.epochs", [study.finetune.epochs])
    most = epochs.high if isinstance(epochs, Range) else max(epochs)
    return ASHAScheduler(time_attr="epoch", max_t=int(most), grace_period=1, reduction_factor=2)


class Marking(TrialCounter):
    """Also marks a point when its trial ends: one stopped early is not unfinished where the search is killed."""

    def __init__(self, bar: Bar, store: TrialStore) -> None:
        super().__init__(bar)
        self.store = store

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.store.end(trial.config, failed=None)
        super().on_trial_complete(iteration, trials, trial, **info)


class TokenCap(tune.Stopper):
    """Ends a search, trials under way with it, when its trials were trained on so many tokens."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.tokens: dict[str, int] = {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        self.tokens[trial_id] = int(result.get("tokens") or 0)
        return False

    def stop_all(self) -> bool:
        return sum(self.tokens.values()) >= self.most
