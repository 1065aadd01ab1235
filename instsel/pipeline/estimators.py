"""Stage *interaction*: the estimators of how categories help or harm each other, one after the other."""

from collections.abc import Collection

from instsel.config.study import StudyConfig
from instsel.console import Terminal
from instsel.pipeline import category_gradients, category_runs
from instsel.runtime.session import ResourcePlan
from instsel.study.graph import Graph


def run_estimators(
    study: StudyConfig, graph: Graph, names: Collection[str], resources: ResourcePlan, terminal: Terminal
) -> None:
    """Run the estimators whose stages are among `names`."""
    for estimator, stage in graph.interaction.items():
        if stage.name not in names:
            continue
        terminal.head(f"interaction {estimator}")
        if estimator == "gradients":
            made = (graph.categorize, graph.prepare, graph.warmup, graph.features)
            category_gradients.run(study, stage, *made, resources, terminal)
        else:
            category_runs.run(study, estimator, stage, graph.categorize, graph.prepare, resources, terminal)
