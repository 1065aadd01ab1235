"""Stage *report*: what every other stage left, as summary.json, report.md and report.html."""

from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import numpy as np

from instsel import __version__
from instsel.choice.figures import figures
from instsel.choice.gradients import influence_matrix
from instsel.choice.inputs import Inputs
from instsel.choice.rows import TABLE
from instsel.choice.ways import figures_influence
from instsel.config import StudyConfig
from instsel.dtypes import dtype_of
from instsel.methods import RandomMethod
from instsel.mixture.agreement import agreement
from instsel.report.markdown import BASE
from instsel.report.study_report import study_report
from instsel.report.summary import differences, loss_table, pooled
from instsel.report.write import write_report
from instsel.stages.graph import Graph
from instsel.stages.interaction import without_nan
from instsel.study import Stage

PACKAGES = ["torch", "transformers", "peft", "ray", "deepspeed"]


def run(study: StudyConfig, graph: Graph) -> None:
    """Write the summary and the reports."""
    graph.report.begin()
    summary = summarise(study, graph)
    graph.report.folder.write_json("summary.json", summary)
    graph.report.folder.write("report.md", study_report(summary).encode())
    write_report([study.out])
    graph.report.commit({})


def summarise(study: StudyConfig, graph: Graph) -> dict[str, Any]:
    """All numbers of a finished study, JSON values only."""
    targets = list(graph.evaluate[BASE].manifest()["result"]["losses"])
    losses = {run: _losses(stage, targets) for run, stage in graph.evaluate.items()}
    columns = _columns(graph)
    by_column = pooled(losses, columns)
    baseline = next((run.method.name for run in graph.runs.values() if isinstance(run.method, RandomMethod)), BASE)
    how = study.evaluation.model_dump(exclude={"token_budget"})
    how["samples"] = how.pop("bootstrap_samples")
    intervals = differences(by_column, baseline, **how)
    pool = graph.prepare.manifest()["result"]["pool"]
    return {
        "study": study.name,
        "model": study.model.name,
        "dtype": dtype_of(study.model),
        "budget": study.selection.budget,
        "unit": study.selection.unit,
        "baseline": baseline,
        "columns": columns,
        "heldout_rows": {target: len(values) for target, values in losses[BASE].items()},
        "losses": loss_table(by_column),
        "losses_by_run": loss_table(losses),
        "differences": {
            column: {target: asdict(interval) for target, interval in found.items()}
            for column, found in intervals.items()
        },
        "confidence": study.evaluation.confidence,
        "pool": pool,
        "targets": graph.prepare.manifest()["result"]["targets"],
        "selections": {name: stage.manifest()["result"] for name, stage in graph.select.items()},
        "figures": _figures(study, graph),
        **_categories(graph),
        "set_aside": _set_aside(graph),
        "cost": {stage.name: stage.manifest()["cost"] for stage in graph.until("evaluate")},
        "versions": {"instsel": __version__, **{name: version(name) for name in PACKAGES}},
        "fingerprint": graph.report.fingerprint,
    }


def _figures(study: StudyConfig, graph: Graph) -> dict[str, Any]:
    """What the selections serve, where the study has gradients."""
    way = figures_influence(study)
    if way is None:
        return {}
    inputs = Inputs(graph.folder)
    chosen = {name: stage.folder.read_table(TABLE, ["id"])["id"].to_pylist() for name, stage in graph.select.items()}
    found = figures(chosen, influence_matrix(inputs, way), inputs)
    return {"influence": way.name, "by_selection": {name: asdict(figure) for name, figure in found.items()}}


def _categories(graph: Graph) -> dict[str, Any]:
    """How categories help each other, by estimator, how far estimators agree, and the mixtures that follow."""
    found = {str(name): stage.manifest()["result"] for name, stage in graph.interaction.items() if stage.done()}
    selections = {name: stage.manifest()["result"] for name, stage in graph.select.items()}
    names = list(found)
    compared = {}
    for name in names[1:]:
        pair = (np.array(found[one]["gamma"], dtype=np.float64) for one in (names[0], name))
        values = asdict(agreement(*pair))
        compared[f"{names[0]} against {name}"] = {key: without_nan(value) for key, value in values.items()}
    return {
        "categories": graph.tag.manifest()["result"]["sizes"] if found else {},
        "interaction": found,
        "agreement": compared,
        "mixtures": {name: made["mixture"] for name, made in selections.items() if "mixture" in made},
    }


def _set_aside(graph: Graph) -> dict[str, str]:
    """Rows without a usable gradient, where gradients were taken."""
    if graph.features not in graph.until("features"):
        return {}
    aside: dict[str, str] = graph.features.manifest()["result"]["set_aside"]
    return aside


def _losses(stage: Stage, targets: list[str]) -> dict[str, np.ndarray]:
    return {target: stage.folder.read_table(f"{target}.parquet", ["loss"])["loss"].to_numpy() for target in targets}


def _columns(graph: Graph) -> dict[str, list[str]]:
    """Columns of the report: the base model, then each method with the runs behind it."""
    columns: dict[str, list[str]] = {BASE: [BASE]}
    for name, run in graph.runs.items():
        columns.setdefault(run.method.name, []).append(name)
    return columns
