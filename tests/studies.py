"""Studies and parts of them that the tests of several packages use."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

METHODS: list[Any] = [
    {"method": "random", "seeds": [0, 1]},
    "proportional",
    {"method": "equal", "by": "task"},
    "longest",
    "perplexity",
    "ifd",
    "rds",
    {"method": "less", "seeds": [0, 1]},
    {"method": "less", "name": "less-means", "average": "gradients"},
    "bids",
    "round_robin",
    "bm25",
    {"method": "bm25", "name": "bm25-sums", "targets": ["sums"]},
    {"method": "bids", "name": "bids-fisher", "attribution": "fisher"},
    {"method": "bids", "name": "bids-sums", "targets": ["sums"]},
    "instance_max",
    {"method": "task_max", "normalize": True},
    "sum",
    {"method": "g2is", "fill": "similarity"},
    {"method": "g2is", "name": "g2is-fisher", "attribution": "fisher", "sign": "align"},
    "smart",
    "facility_location",
    "graph_cut",
    "log_det",
]


@pytest.fixture(scope="session")
def every_method(
    tmp_path_factory: pytest.TempPathFactory, finished_study: dict[str, Any], tiny_encoder: Path
) -> dict[str, Any]:
    """The keys of a study that went on from the finished one and made a selection with every method."""
    from instsel.config.file import parse_study
    from instsel.console import Terminal
    from instsel.pipeline.runner import run_study

    out = tmp_path_factory.mktemp("every") / "study"
    shutil.copytree(finished_study["out"], out)
    selection = {"budget": 6, "methods": METHODS}
    raw = {
        **finished_study,
        "out": str(out),
        "selection": selection,
        "embedding": {"encoder": str(tiny_encoder), "max_length": 64},
    }
    run_study(parse_study(raw, "test"), Terminal(), "select")
    return raw


@pytest.fixture
def say() -> Callable[[str], None]:
    """Takes what is told, and keeps it in its `said`."""

    class Said:
        def __init__(self) -> None:
            self.said: list[str] = []

        def __call__(self, text: str) -> None:
            self.said.append(text)

    return Said()


def stage_context(config: Any, resources: Any = None, folder: Any = None, **folders: Any) -> Any:
    """Return the context in which a stage of a study runs.

    Args:
        config: the study, parsed or its keys.
        resources: a ResourcePlan.
        folder: of the study; by default its `out`.
        folders: stage -> a `StageFolder` in place of that of the study.
    """
    from instsel.config.file import parse_study
    from instsel.console import Terminal
    from instsel.io.store import Folder
    from instsel.pipeline.registry import build_graph
    from instsel.study.stage import RunContext, StageKey

    if isinstance(config, dict):
        config = parse_study(config, "test")
    graph = build_graph(config, folder or Folder.at(config.out))
    for name, replaced in folders.items():
        graph._folders[StageKey.parse(name)] = replaced
    return RunContext(config, graph, resources, Terminal())


def run_stage(context: Any, name: str, key: str = "") -> Any:
    """Run one key of a stage and return its folder."""
    context.graph.stage(name).run(context, [key])
    return context.stage(name, key)


@pytest.fixture(scope="session")
def prepared(finished_study: dict[str, Any]) -> Any:
    """Stage *prepare* of the finished study."""
    from instsel.io.store import Folder
    from instsel.study.folder import StageFolder

    return StageFolder(Folder.at(finished_study["out"]) / "prepare", "prepare", {})


@pytest.fixture(scope="session")
def resources() -> Any:
    """Two actors of one thread each."""
    from instsel.runtime.session import ResourcePlan

    return ResourcePlan(
        actors=2, gpus=0, cpus=0.5, threads=1, workers=1, worker_gpus=0, worker_cpus=1, worker_threads=1
    )


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let model stages work with one actor in this process; tells the tables it was given."""
    from instsel.runtime.actors import ActorPool

    given: list[str] = []

    def run(pool: Any, resources: Any) -> Iterator[dict[str, Any]]:
        worker = pool.actor(resources.threads, *pool.arguments)
        for item in pool.items:
            given.append(item["rows"])
            table = pool.rows.read_table(item["rows"], ["id", *pool.columns])
            yield worker(item, table["id"].to_pylist(), table.select(pool.columns).to_pylist())

    monkeypatch.setattr(ActorPool, "run", run)
    return given
