"""Studies and parts of them that the tests of several packages use."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

METHODS: list[Any] = [
    {"method": "random", "seeds": [0, 1]},
    {"method": "random", "name": "random-baskets", "sources": ["baskets"]},
    {"method": "random", "name": "random-lengths", "lengths_of": "bids"},
    {"method": "random", "name": "random-extra", "extra_for": "bids"},
    "full_pool",
    "validation_only",
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
    {"method": "bids", "name": "bids-contrast", "attribution": "contrast"},
    {"method": "bids", "name": "bids-sums", "targets": ["sums"]},
    {"method": "less", "name": "less-quotas", "quotas": "equal"},
    {"method": "bids", "name": "bids-quotas", "quotas": {"sums": 0.7, "cities": 0.3}},
    "instance_max",
    {"method": "task_max", "normalize": True},
    "sum",
    {"method": "g2is", "fill": "similarity"},
    {"method": "g2is", "name": "g2is-fisher", "attribution": "fisher", "sign": "align"},
    {"method": "g2is", "name": "g2is-contrast", "attribution": "contrast", "fill": "similarity"},
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


def least_config(**parts: Any) -> Any:
    """Check a study file with nothing but what has to be there, and with these parts."""
    from instsel.config.file import parse_study

    least = {
        "name": "s",
        "out": "runs/s",
        "model": {"name": "m"},
        "pool": [{"path": "pool.jsonl"}],
        "targets": {"t": {"validation": "v.jsonl"}},
        "selection": {"budget": 0.1, "methods": ["random"]},
    }
    return parse_study({**least, **parts}, "study.yaml")


def small_manifest(stage: str, result: dict[str, Any], tokens: int = 0, **others: Any) -> dict[str, Any]:
    """What a finished stage leaves beside its files; its fingerprint is its name."""
    return {
        "stage": stage,
        "version": 1,
        "fingerprint": stage,
        "code_version": "0",
        "settings": {},
        "inputs": {},
        "parents": {},
        "cost": {"seconds": 0.0, "tokens": tokens, "peak_memory_bytes": 0, "rows_reprocessed": 0},
        "result": result,
        **others,
    }


@pytest.fixture
def small_pool(tmp_path: Path) -> Callable[..., Any]:
    """Write what stage *prepare* would leave of a few rows, and return a reader of the folder.

    `small_pool(rows, targets, influence)`: rows as (source, prompt, tokens), in shards of four; target -> its
    validation prompts; influence of all rows on these, (n, m), as stage *attribution* would leave it.
    """
    import numpy as np
    import pyarrow as pa

    from instsel.data.encode import EXAMPLES
    from instsel.io.store import Folder
    from instsel.study.reader import StudyReader

    def examples(rows: list[tuple[str, str, int]], prefix: str) -> pa.Table:
        lines = [
            {
                "id": f"{prefix}{number}",
                "source": source,
                "task": None,
                "messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": "Yes."}],
                "input_ids": [1] * tokens,
                "labels": [1] * tokens,
                "tokens": tokens,
                "answer_tokens": 1,
                "truncated": False,
                "file": "rows.jsonl",
                "line": number,
            }
            for number, (source, prompt, tokens) in enumerate(rows)
        ]
        return pa.Table.from_pylist(lines, EXAMPLES)

    def write(
        rows: list[tuple[str, str, int]], targets: dict[str, list[str]] | None = None, influence: Any = None
    ) -> StudyReader:
        folder, pool = Folder.at(tmp_path / "study") / "prepare", examples(rows, "row")
        shards = {f"00000-{start // 4:06d}": pool.slice(start, 4) for start in range(0, len(pool), 4)}
        index = []
        for name, table in shards.items():
            (folder / "pool").write_table(f"{name}.parquet", table)
            lines = table.select(["id", "source", "task", "tokens", "answer_tokens"])
            index.append(lines.append_column("shard", pa.array([name] * len(table))))
        folder.write_table("index.parquet", pa.concat_tables(index))
        for name, prompts in (targets or {}).items():
            table = examples([(name, prompt, 2) for prompt in prompts], name)
            (folder / "targets" / name).write_table("validation.parquet", table)
        sources = {source: {"rows": 0, "tokens": 0} for source, _, _ in rows}
        for source, _, tokens in rows:
            sources[source]["rows"] += 1
            sources[source]["tokens"] += tokens
        counts = {"rows": len(rows), "tokens": sum(tokens for _, _, tokens in rows), "rejected": {}}
        splits = {name: {"validation": {"rows": len(of), "rejected": {}}} for name, of in (targets or {}).items()}
        result = {"pool": {**counts, "shards": list(shards), "sources": sources}, "targets": splits, "tokenizer": {}}
        settings = {"targets": {name: {"subtask": None} for name in targets or {}}}
        folder.write_json("manifest.json", small_manifest("prepare", result, settings=settings))
        if influence is not None:
            scores, out = np.asarray(influence, np.float32), Folder.at(tmp_path / "study") / "attribution/cosine"
            for number, (name, table) in enumerate(shards.items()):
                values = scores[4 * number :][: len(table)]
                blocks = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
                (out / "blocks").write_table(f"{name}.arrow", pa.table({"id": table["id"], "scores": blocks}))
            columns = [
                {"id": f"{name}{number}", "target": name, "subtask": name}
                for name, prompts in (targets or {}).items()
                for number in range(len(prompts))
            ]
            out.write_table("columns.parquet", pa.Table.from_pylist(columns))
            attribution = {"rows": len(rows), "columns": len(columns), "weights": [1.0], "shards": list(shards)}
            parents = {"prepare": "prepare"}
            out.write_json("manifest.json", small_manifest("attribution/cosine", attribution, parents=parents))
        return StudyReader(Folder.at(tmp_path / "study"))

    return write


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
