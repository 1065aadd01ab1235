"""`instsel search`: what trials share, the search, and what comes out of it."""

from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from instsel.config import StudyConfig
from instsel.dtypes import with_kept_dtype
from instsel.errors import InputError
from instsel.progress import Terminal
from instsel.report.search import search_picture, search_report, search_summary
from instsel.search.outcome import Outcome, importances
from instsel.search.settings import Search
from instsel.search.space import check_space, raw_study_of
from instsel.stages import search as trials
from instsel.stages.dtype import settled_study
from instsel.stages.evaluate import heldout_tables
from instsel.stages.gather import gathered
from instsel.stages.graph import Graph, build_graph
from instsel.stages.pipeline import run_study
from instsel.stages.session import allot, ray_session
from instsel.storage import Folder
from instsel.study import Stage, open_folder

SHARED = "interaction"
BEST = "best.yaml"
TRIALS = "trials.parquet"
SUMMARY = "summary.json"
REPORT = "report.md"


def search_study(study: StudyConfig, terminal: Terminal) -> Folder:
    """Run everything that trials share, then search; a finished search is told again at once.

    Returns:
        The folder of searches, with report.md, best.yaml, summary.json, trials.parquet and pareto.html.

    Raises:
        InputError: the study has no key `search`, or a value of its space cannot be.
        StudyError: a stage failed, or every trial did.
    """
    search = study.search
    if search is None:
        raise InputError("the study file has no key `search`; write what is searched under search.space")
    check_space(study, search)
    opened = open_folder(study.out, study.name)
    study = with_kept_dtype(study, opened)
    if study.model.dtype == "auto":
        with ray_session(study.resources), gathered(study.resources, terminal):
            study = settled_study(study, opened, terminal)
    folder = opened / "search"
    stage = _stage(study, search, build_graph(study, opened))
    if stage.done() and stage.manifest()["result"]["caps"] == _caps(search):
        terminal.say(f"search of {study.name}: nothing to do, it is finished")
        _write(study, search, folder, trials.told(trials.points_of(search, stage)))
        return folder

    def then(graph: Graph) -> None:
        _check_heldout(graph)
        stage.begin()
        terminal.head("search")
        outcomes = trials.run(study, search, stage, allot(study.resources), terminal)
        _write(study, search, folder, outcomes)
        told = {"trials": len(outcomes), "caps": _caps(search)}
        stage.commit(told, tokens=sum(one.tokens for one in outcomes))

    run_study(study, terminal, SHARED, then)
    return folder


def _caps(search: Search) -> dict[str, Any]:
    """What ends a search; with higher ones it goes on."""
    return {"trials": search.trials, "hours": search.hours, "tokens": search.tokens}


def _stage(study: StudyConfig, search: Search, graph: Graph) -> Stage:
    """The search's stage, in a folder of its own by what it depends on: trials are shared by all searches."""
    settings = study.model_dump(exclude={"search", "out", "root", "resources", "name"})
    config = {"search": search.model_dump(exclude=set(_caps(search))), "study": settings}
    parents = graph.until(SHARED)
    name = Stage(graph.folder / "search", "search", config, parents).fingerprint[:12]
    return Stage(graph.folder / "search" / name, "search", config, parents)


def _check_heldout(graph: Graph) -> None:
    """Refuse a search that could not be judged."""
    tables = heldout_tables(graph.prepare)
    if not tables:
        raise InputError("search: no target has held-out rows to search by; give targets.*.heldout")
    counts = graph.prepare.manifest()["result"]["targets"]
    for target in tables:
        if counts[target]["heldout"]["rows"] < 2:
            raise InputError(f"targets.{target}: one held-out row cannot be parted for the search; give two or more")


def _write(study: StudyConfig, search: Search, folder: Folder, outcomes: list[Outcome]) -> None:
    summary = search_summary(outcomes, importances(outcomes, search.space, search.seed), search.share)
    folder.write(BEST, _best_study(study, outcomes[0]).encode())
    folder.write_table(TRIALS, _table(outcomes))
    folder.write("pareto.html", search_picture(summary))
    folder.write(REPORT, search_report(summary, f"{folder}/{BEST}").encode())
    folder.write_json(SUMMARY, summary)


def _best_study(study: StudyConfig, best: Outcome) -> str:
    """The study file of the best trial, which runs by itself into a folder of its own."""
    raw = {**raw_study_of(study, best.point), "name": f"{study.name}-best", "out": f"{study.out.rstrip('/')}-best"}
    head = f"# The best of the trials of {study.name}: objective {best.objective:.4f}.\n"
    return head + yaml.safe_dump(raw, sort_keys=False, allow_unicode=True)


def _table(outcomes: list[Outcome]) -> pa.Table:
    rows: list[dict[str, Any]] = []
    for one in outcomes:
        losses = {f"searched.{target}": loss for target, loss in one.searched.items()}
        losses |= {f"judged.{target}": loss for target, loss in one.judged.items()}
        told = {"trial": one.name, **{key: _column(value) for key, value in one.point.items()}}
        objective = one.objective if np.isfinite(one.objective) else None
        rest = {"objective": objective, "tokens": one.tokens, "failed": one.failed, "stopped": one.stopped}
        rows.append({**told, **rest, **losses})
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: [row.get(name) for row in rows] for name in names})


def _column(value: Any) -> Any:
    return value if isinstance(value, str | int | float) else str(value)
