"""One trial of a search, on what all trials share, and the store of the points that a search has tried."""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TypedDict

from instsel.config.search import Point, Search
from instsel.config.study import StudyConfig
from instsel.errors import Diverged, InputError
from instsel.evaluation.halves import searched_rows
from instsel.io.fingerprint import fingerprint
from instsel.io.store import Folder
from instsel.pipeline.evaluate import EvaluationSet, evaluate_sets, heldout_tables
from instsel.pipeline.finetune import train_until
from instsel.pipeline.registry import build_graph
from instsel.search.guards import harmed_guards
from instsel.search.outcome import Outcome, objective_of
from instsel.study.results import PrepareResult, TrainingResult
from instsel.study.runs import Run
from instsel.study.stage import RunContext

OUTCOME = "outcome.json"
OWNER = "owner.json"
WATCHED = "watched"
DONE = "done.json"


class Progress(TypedDict, total=False):
    """What a trial says after an epoch, and at its end.

    Attributes:
        failed: why it failed; None where it has not.
        objective: of the losses so far; a trial that failed has none.
        tokens: trained on.
        epoch: that has ended.
        last: whether nothing follows.
        stopped: whether the search stopped it early.
    """

    failed: str | None
    objective: float
    tokens: int
    epoch: int
    last: bool
    stopped: bool


class PointEntry(TypedDict):
    """What is written down of a point: which trial tries it, if one does, and what that said last."""

    point: Point
    trial: str | None
    progress: Progress | None


Report = Callable[[Progress], None]
"""Takes what a trial tells; does not return where the trial is stopped."""


def trial_folder(study: StudyConfig, shared: Folder, trials: Folder, trial: str) -> Folder:
    """Return the folder of a trial, named by what it depends on, so that no search does anything twice.

    Args:
        study: of the trial.
        shared: the study's folder.
        trials: folder of all trials.
        trial: id that Ray Tune gave it. Two trials of the same study at the same time have a folder each.
    """
    graph = build_graph(study, shared)
    (run,) = graph.runs
    name = graph["evaluate", run].fingerprint[:12]
    folder = trials / name
    if folder.exists(OUTCOME):
        return folder
    if not folder.exists(OWNER):
        folder.create_once(OWNER, json.dumps({"trial": trial}).encode())
    return folder if folder.read_json(OWNER)["trial"] == trial else trials / f"{name}-{trial}"


def run_trial(context: RunContext, search: Search, folder: Folder, report: Report) -> None:
    """Run what of a trial is not done, and report the outcome: objective and tokens, or why it failed.

    Args:
        context: of the trial's study, which has one method; its selection and what follows are below `folder`.
        search: what is minimised and by which rows.
        folder: of the trial.
        report: takes the objective after each epoch where trials may be stopped early, and at the end.
    """
    graph, epochs = context.graph, context.config.finetune.epochs
    run = next(iter(graph.runs.values()))
    evaluation = context.stage("evaluate", run.name)
    try:
        _run_open(context, "select", run.selection)
        if search.early_stopping == "asha":
            _watch(context, search, run, report)
        _run_open(context, "finetune", run.name)
        _run_open(context, "evaluate", run.name)
        harmed = harmed_guards(context, run, folder) if search.guards else []
    except (InputError, Diverged) as error:
        report({"failed": str(error), "tokens": 0, "epoch": epochs, "last": True, "stopped": False})
        return
    tokens = context.stage("finetune", run.name).result(TrainingResult).tokens
    targets = list(heldout_tables(context.stage("prepare").result(PrepareResult)))
    searched, _ = split_losses(evaluation.folder, targets, search.share)
    folder.write_json(OUTCOME, {"tokens": tokens, "evaluated": evaluation.name, "targets": targets})
    if harmed:
        report({"failed": "; ".join(harmed), "tokens": tokens, "epoch": epochs, "last": True, "stopped": False})
        return
    report(_progress(search, searched, tokens, epochs, last=True))


def _run_open(context: RunContext, stage: str, key: str) -> None:
    if not context.stage(stage, key).done():
        context.graph.stage(stage).run(context, [key])


def split_losses(folder: Folder, targets: Collection[str], share: float) -> tuple[dict[str, float], dict[str, float]]:
    """Return the mean losses of an evaluation by target: of the rows that are searched by, and of the others."""
    searched, judged = {}, {}
    for target in targets:
        table = folder.read_table(f"{target}.parquet", ["id", "loss"])
        losses = table["loss"].to_numpy()
        inside = searched_rows(table["id"].to_pylist(), share)
        searched[target], judged[target] = float(losses[inside].mean()), float(losses[~inside].mean())
    return searched, judged


def _watch(context: RunContext, search: Search, run: Run, report: Report) -> None:
    """Train an epoch at a time and report the objective after each but the last."""
    stage = context.stage("finetune", run.name)
    tables = heldout_tables(context.stage("prepare").result(PrepareResult))
    for epoch in range(1, context.config.finetune.epochs):
        folder = stage.folder / WATCHED / f"epoch-{epoch}"
        if not folder.exists(DONE):
            trained = train_until(context, run, epoch)
            adapter = stage.folder / trained.last
            sets = [EvaluationSet(run.name, target, rows, adapter, folder) for target, rows in tables.items()]
            evaluate_sets(context, sets, context.stage("prepare").folder)
            folder.write_json(DONE, {"tokens": trained.tokens})
        searched, _ = split_losses(folder, tables, search.share)
        tokens = folder.read_json(DONE)["tokens"]
        # If the search stops the trial, it does so here.
        report(_progress(search, searched, tokens, epoch, last=False))


def _progress(search: Search, losses: Mapping[str, float], tokens: int, epoch: int, *, last: bool) -> Progress:
    objective = objective_of(losses, tokens, search.objective)
    return {"failed": None, "objective": objective, "tokens": tokens, "epoch": epoch, "last": last, "stopped": False}


@dataclass(frozen=True)
class TrialStore:
    """The points of one search.

    Attributes:
        folder: where their files are.
        trials: folder of the trials, which searches share.
        search: the key `search`.
    """

    folder: Folder
    trials: Folder
    search: Search

    def asked(self, point: Point) -> PointEntry | None:
        """Return the entry of a point; None if it was never tried."""
        name = f"{_name(point)}.json"
        entry: PointEntry | None = self.folder.read_json(name) if self.folder.exists(name) else None
        return entry

    def note(self, point: Point, trial: str | None, progress: Progress | None) -> None:
        """Write down that a point is tried, by which trial, and its last progress."""
        entry: PointEntry = {"point": dict(point), "trial": trial, "progress": progress}
        self.folder.write_json(f"{_name(point)}.json", entry)

    def end(self, point: Point, *, failed: str | None) -> None:
        """Mark a point whose trial ended before its last report: as failed, or as stopped early."""
        kept = self.asked(point)
        trial, progress = (kept["trial"], kept["progress"] or Progress()) if kept else (None, Progress())
        if progress.get("last"):
            return
        if failed is not None or not progress:
            progress = {"failed": failed or "stopped before its first epoch ended"}
        self.note(point, trial, {**progress, "last": True, "stopped": "objective" in progress})

    def outcomes(self) -> list[tuple[Point, Outcome | None]]:
        """Return every point that was tried with its outcome; None for one that is unfinished."""
        entries: list[PointEntry] = [self.folder.read_json(name) for name in self.folder.names()]
        return [(entry["point"], self.outcome(entry)) for entry in entries]

    def outcome(self, kept: PointEntry) -> Outcome | None:
        """Return the outcome of an entry."""
        point, progress, trial = kept["point"], kept["progress"], kept["trial"]
        # Trials are shared by searches; whether one is out for a guard, only this search's own entry says.
        counts = not self.search.guards or _has_passed(progress)
        if counts and trial is not None and (self.trials / trial).exists(OUTCOME):
            done = (self.trials / trial).read_json(OUTCOME)
            folder = self.trials / trial / done["evaluated"]
            searched, judged = split_losses(folder, done["targets"], self.search.share)
            objective = objective_of(searched, done["tokens"], self.search.objective)
            return Outcome(trial, point, objective, done["tokens"], searched, judged)
        if progress is None or not progress["last"]:
            return None
        name = trial or _name(point)
        if progress["stopped"]:
            return Outcome(name, point, progress["objective"], progress["tokens"], {}, {}, stopped=True)
        return Outcome(name, point, float("inf"), progress.get("tokens", 0), {}, {}, failed=progress["failed"])


def _has_passed(progress: Progress | None) -> bool:
    """Return whether a trial has told its end, and neither failed nor was stopped before it."""
    return progress is not None and progress["last"] and not progress["failed"] and not progress["stopped"]


def _name(point: Point) -> str:
    return fingerprint(dict(point))
