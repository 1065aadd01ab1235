"""Stage *search*: trials of a study with other methods, budgets, mixtures, orders and settings, by Ray Tune.

What is asked for and what comes out is kept as JSON, a file a point. Ray Tune could restore its searchers by itself,
but from pickles; so a search that goes on tells a new searcher what is known, and asks again for what was under way.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.basic_variant import BasicVariantGenerator
from ray.tune.search.optuna import OptunaSearch

from instsel.config.search import Range, Search
from instsel.config.study import StudyConfig
from instsel.console import Bar, Terminal
from instsel.errors import InputError, StudyError
from instsel.io.store import Folder
from instsel.runtime.errors import last_line
from instsel.runtime.session import ResourcePlan
from instsel.runtime.tune import DRIVER, TrialCounter, plan_trial_resources, quiet_tune
from instsel.search.outcome import Outcome
from instsel.search.space import study_of
from instsel.search.store import TrialStore
from instsel.search.trial import OUTCOME, OWNER, run_trial, trial_folder
from instsel.study.folder import StageFolder
from instsel.tracking import tracked

TUNE = "tune"
TRIALS = "trials"
POINTS = "points"


def run(
    study: StudyConfig, search: Search, stage: StageFolder, resources: ResourcePlan, terminal: Terminal
) -> list[Outcome]:
    """Search, going on where an earlier call of the same search was stopped.

    Args:
        study: the study file, all stages before the selections done.
        search: its key `search`.
        stage: of this search, in the folder `search` of the study's.
        resources: what the cluster gives a single run.
        terminal: where progress is shown.

    Returns:
        Every trial that told something, the best first.

    Raises:
        StudyError: every trial failed.
    """
    each, at_once = plan_trial_resources(resources, study.resources.trial_workers)
    points = points_of(search, stage)
    _release(points.trials)
    known = points.outcomes()
    left = search.points - sum(outcome is not None for _, outcome in known)
    if left < search.points:
        terminal.say(f"{search.points - left} trials were there already")
    spent = sum(outcome.tokens for _, outcome in known if outcome is not None)
    if left > 0 and (search.tokens is None or spent < search.tokens):
        shared = stage.folder.parent.parent
        one = partial(_trial, study=study, search=search, shared=shared, points=points, resources=each)
        with terminal.bar("search", left, "trials") as bar, quiet_tune(terminal):
            results = _tuner(study, search, stage.folder, one, at_once, left, known, spent, Marking(bar, points)).fit()
        for place in range(len(results)):
            error = results[place].error
            points.end(results[place].config or {}, failed=None if error is None else last_line(error))
        (stage.folder / TUNE).remove()
    return told(points)


def points_of(search: Search, stage: StageFolder) -> TrialStore:
    """The points of a search, in its stage's folder; the trials beside it."""
    return TrialStore(stage.folder / POINTS, stage.folder.parent / TRIALS, search)


def told(points: TrialStore) -> list[Outcome]:
    """Every trial that ended, the best first.

    Raises:
        StudyError: none came to its end.
    """
    outcomes = [outcome for _, outcome in points.outcomes() if outcome is not None]
    if not any(np.isfinite(outcome.objective) and not outcome.stopped for outcome in outcomes):
        reasons = sorted({outcome.failed for outcome in outcomes if outcome.failed})
        raise StudyError(f"search: no trial came to its end: {'; '.join(reasons) or 'the caps left no time'}")
    return sorted(outcomes, key=lambda outcome: (outcome.stopped, outcome.objective, outcome.name))


def _trial(
    config: Mapping[str, Any],
    study: StudyConfig,
    search: Search,
    shared: Folder,
    points: TrialStore,
    resources: ResourcePlan,
) -> None:
    """What a trial's process does. A point that has ended, which some searchers ask for again, answers at once."""
    point = dict(config)
    kept = points.asked(point)
    if kept is not None and (outcome := points.outcome(kept)) is not None:
        tune.report({"objective": outcome.objective, "epoch": 1, "tokens": 0})
        return
    try:
        made = study_of(study, point)
    except InputError as error:
        points.note(point, None, {"failed": str(error), "last": True, "stopped": False})
        tune.report({"objective": float("inf"), "epoch": 1, "tokens": 0})
        return
    own = trial_folder(made, shared, points.trials, tune.get_context().get_trial_id())
    name = own.name
    points.note(point, name, None)

    def report(told: dict[str, Any]) -> None:
        points.note(point, name, told)
        if told["last"] and not told["failed"]:
            # The losses of its steps are told where it is trained.
            with tracked(made, own, name, point) as shown:
                shown.log({"objective": told["objective"], "tokens": told["tokens"]}, told["epoch"])
        objective = float("inf") if told["failed"] else told["objective"]
        tune.report({"objective": objective, "epoch": told["epoch"], "tokens": told["tokens"]})

    run_trial(made, search, shared, own, resources, report)


def _release(trials: Folder) -> None:
    """Take their owners from trials that an earlier call left under way."""
    for name in trials.names():
        if not (trials / name).exists(OUTCOME) and (trials / name).exists(OWNER):
            (trials / name).delete(OWNER)


def _tuner(
    study: StudyConfig,
    search: Search,
    folder: Folder,
    one: Any,
    at_once: int,
    left: int,
    asked: Sequence[tuple[dict[str, Any], Outcome | None]],
    spent: int,
    counting: TrialCounter,
) -> tune.Tuner:
    (folder / TUNE).remove()
    trainable: Any = tune.with_resources(one, DRIVER)
    space = {key: _domain(values, search) for key, values in search.space.items()}
    by_optuna = search.searcher == "optuna"
    return tune.Tuner(
        trainable,
        # A searcher that was told of points has the space already.
        param_space={} if by_optuna else space,
        tune_config=tune.TuneConfig(
            metric="objective",
            mode="min",
            num_samples=1 if search.searcher == "grid" else left if by_optuna else search.trials,
            max_concurrent_trials=at_once,
            search_alg=_optuna(search, space, asked) if by_optuna else _in_turn(search, at_once),
            scheduler=_scheduler(study, search),
            time_budget_s=None if search.hours is None else search.hours * 3600,
        ),
        run_config=tune.RunConfig(
            name=TUNE,
            storage_path=folder.path,
            storage_filesystem=folder.retrying_filesystem(),
            failure_config=tune.FailureConfig(max_failures=study.resources.max_failures),
            callbacks=[counting],
            stop=None if search.tokens is None else TokenCap(search.tokens - spent),
            verbose=0,
        ),
    )


def _in_turn(search: Search, at_once: int) -> BasicVariantGenerator:
    """Points at random or of a grid. Ray Tune's own cap of concurrent trials passes this searcher by."""
    return BasicVariantGenerator(max_concurrent=at_once, random_state=search.seed)


def _domain(values: Any, search: Search) -> Any:
    """A key of the space as Ray Tune has it."""
    if not isinstance(values, Range):
        return tune.grid_search(values) if search.searcher == "grid" else tune.choice(values)
    if isinstance(values.low, int) and isinstance(values.high, int):
        draw: Any = tune.lograndint if values.log else tune.randint
        return draw(values.low, values.high + 1)
    draw = tune.loguniform if values.log else tune.uniform
    return draw(values.low, values.high)


def _optuna(
    search: Search, space: Mapping[str, Any], asked: Sequence[tuple[dict[str, Any], Outcome | None]]
) -> OptunaSearch:
    """A searcher that knows what came out so far, and asks first for what was under way."""
    under_way = [point for point, outcome in asked if outcome is None]
    searcher = OptunaSearch(
        OptunaSearch.convert_search_space(dict(space)),
        metric="objective",
        mode="min",
        # Another draw in each call: the same seed would ask for the same points again.
        seed=search.seed + len(asked),
        points_to_evaluate=under_way or None,
    )
    for point, outcome in asked:
        if outcome is not None and np.isfinite(outcome.objective):
            searcher.add_evaluated_point(point, outcome.objective)
    return searcher


def _scheduler(study: StudyConfig, search: Search) -> ASHAScheduler | None:
    if search.early_stopping == "none":
        return None
    epochs = search.space.get("finetune.epochs", [study.finetune.epochs])
    most = epochs.high if isinstance(epochs, Range) else max(epochs)
    return ASHAScheduler(time_attr="epoch", max_t=int(most), grace_period=1, reduction_factor=2)


class Marking(TrialCounter):
    """Also marks a point when its trial ends: one stopped early is not under way where the search is killed."""

    def __init__(self, bar: Bar, points: TrialStore) -> None:
        super().__init__(bar)
        self.points = points

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.points.end(trial.config, failed=None)
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
