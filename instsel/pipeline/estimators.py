"""Stage *interaction*: the estimators of how categories help or harm each other, one after the other."""

from collections.abc import Collection

from instsel.config.study import StudyConfig
from instsel.console import Terminal
from instsel.pipeline import category_gradients, category_runs
from instsel.runtime.session import Allotment
from instsel.study.graph import Graph


def run_estimators(
    study: StudyConfig, graph: Graph, names: Collection[str], allot: Allotment, terminal: Terminal
) -> None:
    """Run the estimators whose stages are among `names`."""
    for estimator, stage in graph.interaction.items():
        if stage.name not in names:
            continue
        terminal.head(f"interaction {estimator}")
        if estimator == "gradients":
            made = (graph.tag, graph.prepare, graph.warmup, graph.features)
            category_gradients.run(study, stage, *made, allot, terminal)
        else:
            category_runs.run(study, estimator, stage, graph.tag, graph.prepare, allot, terminal)
