"""One trial of a search: its selection, its training and its evaluation, on what all trials share."""

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

from instsel.config.search import Search
from instsel.config.study import StudyConfig
from instsel.console import Terminal
from instsel.errors import Diverged, InputError
from instsel.io.store import Folder
from instsel.pipeline import evaluate, finetune, select
from instsel.report.markdown import BASE
from instsel.runtime.session import ResourcePlan
from instsel.search.outcome import objective_of, searched_rows
from instsel.study.folder import StageFolder
from instsel.study.graph import Graph, Run, build_graph
from instsel.study.reader import StudyReader

OUTCOME = "outcome.json"
OWNER = "owner.json"
WATCHED = "watched"
DONE = "done.json"

Report = Callable[[dict[str, Any]], None]
"""Takes what a trial tells; does not return where the trial is stopped."""


def trial_folder(study: StudyConfig, shared: Folder, trials: Folder, trial: str) -> Folder:
    """The folder of a trial: named by what the trial depends on, so that nothing is done twice, by whichever search.

    Args:
        study: of the trial.
        shared: the study's folder.
        trials: folder of all trials.
        trial: id that Ray Tune gave it. Two trials of the same study at the same time have a folder each.
    """
    graph = build_graph(study, shared)
    name = next(stage for run, stage in graph.evaluate.items() if run != BASE).fingerprint[:12]
    folder = trials / name
    if folder.exists(OUTCOME):
        return folder
    if not folder.exists(OWNER):
        folder.create_once(OWNER, json.dumps({"trial": trial}).encode())
    return folder if folder.read_json(OWNER)["trial"] == trial else trials / f"{name}-{trial}"


def run_trial(
    study: StudyConfig, search: Search, shared: Folder, own: Folder, resources: ResourcePlan, report: Report
) -> None:
    """Run what of a trial is not done, and say what came out: objective and tokens, or why it failed.

    Args:
        study: of the trial, with one method.
        search: what is minimised and by which rows.
        shared: the study's folder, with everything up to the selections.
        own: folder of the trial.
        resources: what the trial gets of the cluster.
        report: told the objective after each epoch where trials may be stopped early, and at the end.
    """
    graph = build_graph(study, shared, own)
    run, terminal = next(iter(graph.runs.values())), Terminal()
    chosen, stage, judged = graph.select[run.selection], graph.finetune[run.name], graph.evaluate[run.name]
    try:
        if not chosen.done():
            select.run(study, chosen, run, graph.prepare, StudyReader(shared), terminal)
        if search.early_stopping == "asha":
            _watch(study, search, graph, run, resources, report)
        if not stage.done():
            finetune.run(study, stage, chosen, run, StudyReader(shared), resources, terminal)
        if not judged.done():
            evaluate.run(study, {run.name: judged}, {run.name: stage}, graph.prepare, resources, terminal)
    except (InputError, Diverged) as error:
        report({"failed": str(error), "tokens": 0, "epoch": study.finetune.epochs, "last": True, "stopped": False})
        return
    tokens, targets = tokens_of(stage), list(evaluate.heldout_tables(graph.prepare))
    searched, _ = split_losses(judged.folder, targets, search.share)
    own.write_json(OUTCOME, {"tokens": tokens, "evaluated": f"evaluate/{run.name}", "targets": targets})
    report(_told(search, searched, tokens, study.finetune.epochs, last=True))


def tokens_of(stage: StageFolder) -> int:
    """Tokens that a training run saw, epochs counted."""
    return int(sum(metrics["tokens"] for metrics in stage.manifest()["result"]["checkpoints"].values()))


def split_losses(folder: Folder, targets: Collection[str], share: float) -> tuple[dict[str, float], dict[str, float]]:
    """Mean losses of an evaluation by target: of the rows that are searched by, and of the others."""
    searched, judged = {}, {}
    for target in targets:
        table = folder.read_table(f"{target}.parquet", ["id", "loss"])
        losses = table["loss"].to_numpy()
        inside = searched_rows(table["id"].to_pylist(), share)
        searched[target], judged[target] = float(losses[inside].mean()), float(losses[~inside].mean())
    return searched, judged


def _watch(study: StudyConfig, search: Search, graph: Graph, run: Run, resources: ResourcePlan, report: Report) -> None:
    """Train an epoch at a time and report the objective after each but the last."""
    stage, name = graph.finetune[run.name], run.name
    tables = evaluate.heldout_tables(graph.prepare)
    for epoch in range(1, study.finetune.epochs):
        told = stage.folder / WATCHED / f"epoch-{epoch}"
        if not told.exists(DONE):
            reader = StudyReader(graph.folder)
            trained = finetune.train(
                study, stage, graph.select[run.selection], run, reader, resources, Terminal(), epoch
            )
            items = [{"run": name, "target": target, "rows": rows} for target, rows in tables.items()]
            adapter = evaluate.adapter_of(stage.folder, trained.result)
            evaluate.evaluate_sets(study, items, {name: (adapter, told)}, graph.prepare.folder, resources, Terminal())
            tokens = sum(metrics["tokens"] for metrics in trained.result["checkpoints"].values())
            told.write_json(DONE, {"tokens": int(tokens)})
        searched, _ = split_losses(told, tables, search.share)
        tokens = told.read_json(DONE)["tokens"]
        # If the search stops the trial, it does so here.
        report(_told(search, searched, tokens, epoch, last=False))


def _told(search: Search, losses: Mapping[str, float], tokens: int, epoch: int, *, last: bool) -> dict[str, Any]:
    objective = objective_of(losses, tokens, search.objective)
    return {"failed": None, "objective": objective, "tokens": tokens, "epoch": epoch, "last": last, "stopped": False}
