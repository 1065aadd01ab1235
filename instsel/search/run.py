"""`instsel search`: what trials share, the search, and what comes out of it."""

from typing import Any

import numpy as np
import pyarrow as pa

from instsel.config.file import dump_yaml, parse_study
from instsel.config.search import Search
from instsel.config.study import StudyConfig
from instsel.console import Terminal
from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.pipeline.evaluate import heldout_tables
from instsel.pipeline.preflight import problems_listed, require_no_problem
from instsel.pipeline.registry import build_graph
from instsel.pipeline.runner import run_study
from instsel.report.html import search_page
from instsel.report.text import search_report
from instsel.runtime.autoscaling import requested_capacity
from instsel.runtime.devices import settle_dtype
from instsel.runtime.session import ray_session
from instsel.search import trials
from instsel.search.guards import score_base, scored_guards
from instsel.search.outcome import Outcome, importances, search_facts
from instsel.search.space import check_space, raw_study_of
from instsel.study.dtype import with_recorded_dtype
from instsel.study.folder import Cost, StageFolder, open_folder
from instsel.study.graph import StageGraph
from instsel.study.results import PrepareResult, Result
from instsel.study.revisions import with_pinned_revisions
from instsel.study.stage import RunContext

SHARED = "interaction"
BEST = "best.yaml"
RANDOM = "random"
TRIALS = "trials.parquet"
SUMMARY = "summary.json"
REPORT = "report.md"


class SearchResult(Result):
    """What a search leaves: its trials, and the caps that ended it."""

    trials: int
    caps: dict[str, float | None]


def search_study(study: StudyConfig, terminal: Terminal, redo: bool = False) -> Folder:
    """Run everything that trials share, then search; a finished search is shown again at once.

    Args:
        study: the checked study file.
        terminal: where progress is shown.
        redo: as `run_study` takes it.

    Returns:
        The folder of searches, with report.md, pareto.html, best.yaml, summary.json and trials.parquet.

    Raises:
        InputError: the study has no key `search`, or a value of its space cannot be.
        StudyError: a stage failed, or every trial did.
    """
    search = study.search
    if search is None:
        raise InputError("the study file has no key `search`; write what is searched under search.space")
    check_space(study, search)
    if search.guards:
        scored_guards(study)
    opened = open_folder(study.out, study.name)
    study = with_recorded_dtype(with_pinned_revisions(study, opened, terminal), opened)
    if study.model.dtype == "auto":
        require_no_problem(study, terminal)
        with ray_session(study.resources), requested_capacity(study.resources, terminal):
            study = settle_dtype(study, opened, terminal)
    folder = opened / "search"
    with problems_listed(study, terminal):
        stage = _stage(study, search, build_graph(study, opened))
    if stage.done() and stage.result(SearchResult).caps == _caps(search):
        terminal.say(f"search of {study.name}: nothing to do, it is finished")
        _write(study, search, folder, trials.finished_outcomes(trials.store_of(search, stage)))
        return folder

    def then(context: RunContext) -> None:
        _check_heldout(context)
        if search.guards:
            score_base(context)
        stage.start()
        terminal.head("search")
        outcomes = trials.run(context, stage)
        _write(study, search, folder, outcomes)
        result = SearchResult(trials=len(outcomes), caps=_caps(search))
        stage.commit(result, Cost(tokens=sum(outcome.tokens for outcome in outcomes)))

    run_study(study, terminal, SHARED, then, redo)
    return folder


def _caps(search: Search) -> dict[str, float | None]:
    """Return what ends a search; with higher ones it continues."""
    return {"trials": search.trials, "hours": search.hours, "tokens": search.tokens}


def _stage(study: StudyConfig, search: Search, graph: StageGraph) -> StageFolder:
    """Return the search's stage, in a folder of its own by what it depends on: trials are shared by all searches."""
    settings = study.model_dump(exclude={"search", "out", "root", "resources", "name"})
    config = {"search": search.model_dump(exclude=set(_caps(search))), "study": settings}
    parents = graph.until(SHARED)
    name = StageFolder(graph.folder / "search", "search", config, parents).fingerprint[:12]
    return StageFolder(graph.folder / "search" / name, "search", config, parents)


def _check_heldout(context: RunContext) -> None:
    """Refuse a search that could not be judged."""
    prepared = context.stage("prepare").result(PrepareResult)
    tables = heldout_tables(prepared)
    if not tables:
        raise InputError("search: no target has held-out rows to search by; give targets.*.heldout")
    for target in tables:
        if prepared.targets[target]["heldout"].rows < 2:
            raise InputError(f"targets.{target}: one held-out row cannot be parted for the search; give two or more")


def _write(study: StudyConfig, search: Search, folder: Folder, outcomes: list[Outcome]) -> None:
    facts = search_facts(outcomes, importances(outcomes, search.space, search.seed), search.share)
    folder.write(BEST, _best_study(study, outcomes[0]).encode())
    folder.write_table(TRIALS, _table(outcomes))
    folder.write("pareto.html", search_page(facts))
    folder.write(REPORT, search_report(facts, f"{folder}/{BEST}").encode())
    folder.write_json(SUMMARY, facts.model_dump(mode="json"))


def _best_study(study: StudyConfig, best: Outcome) -> str:
    """Return the study file of the best trial, which runs by itself into a folder of its own.

    It is evaluated on the held-out rows that did not choose it, beside a random draw.
    """
    raw: dict[str, Any] = dict(raw_study_of(study, best.point))
    raw |= {"name": f"{study.name}-best", "out": f"{study.out.rstrip('/')}-best"}
    assert study.search is not None
    raw["evaluation"] = {**(raw.get("evaluation") or {}), "searched_share": study.search.share}
    (method,) = raw["selection"]["methods"]
    if not parse_study(raw, BEST).selection.methods[0].is_reference:
        name = RANDOM if method["name"] != RANDOM else f"{RANDOM}-draw"
        baseline = {"method": RANDOM, "name": name, "seeds": method["seeds"]}
        raw["selection"] = {**raw["selection"], "methods": [method, baseline]}
    head = f"# The best of the trials of {study.name}: objective {best.objective:.4f}.\n"
    return head + dump_yaml(raw)


def _table(outcomes: list[Outcome]) -> pa.Table:
    rows: list[dict[str, str | float | bool | None]] = []
    for outcome in outcomes:
        losses = {f"searched.{target}": loss for target, loss in outcome.searched.items()}
        losses |= {f"judged.{target}": loss for target, loss in outcome.judged.items()}
        point = {"trial": outcome.name, **{key: _column(value) for key, value in outcome.point.items()}}
        objective = outcome.objective if np.isfinite(outcome.objective) else None
        result = {
            "objective": objective,
            "tokens": outcome.tokens,
            "failed": outcome.failed,
            "stopped": outcome.stopped,
        }
        rows.append({**point, **result, **losses})
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: [row.get(name) for row in rows] for name in names})


def _column(value: Any) -> Any:
    return value if isinstance(value, str | int | float) else str(value)
