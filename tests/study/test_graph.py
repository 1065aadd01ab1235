"""Which stages a study has, and which of them a changed key, file or model makes stale."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from instsel.config.file import parse_study
from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.pipeline.registry import build_graph
from instsel.study.attribution_specs import metrics_spec
from instsel.study.graph import StageGraph, stale_settings
from instsel.study.reader import StudyReader
from instsel.study.results import ReportResult
from instsel.study.runs import runs_of

METHODS = ["random", "less", "bids"]
TRAINED = {f"{stage}/{name}" for stage in ("finetune", "evaluate") for name in METHODS}
INFLUENCE = {f"{stage}/{name}" for stage in ("select", "finetune", "evaluate") for name in ("less", "bids")}
AFTER_FEATURES = {"features", "attribution/cosine", "report", *INFLUENCE}
AFTER_SELECT = {"report", *TRAINED, *(f"select/{name}" for name in METHODS)}
ALL = {"prepare", "warmup", "evaluate/base", *AFTER_FEATURES, *AFTER_SELECT}
BIDS = {"select/bids", "finetune/bids", "evaluate/bids", "report"}

Make = Callable[..., StageGraph]


@pytest.fixture
def graph(tiny_study: Callable[..., dict[str, Any]], tmp_path: Path) -> Make:
    """Builds the graph of a tiny study whose keys `a__b=value` are changed."""
    raw = tiny_study()

    def make(**changed: Any) -> StageGraph:
        study: dict[str, Any] = {key: dict(value) if isinstance(value, dict) else value for key, value in raw.items()}
        for path, value in changed.items():
            *parents, last = path.split("__")
            part = study
            for parent in parents:
                part = part.setdefault(parent, {})
            part[last] = value
        return build_graph(parse_study(study, "study.yaml"), Folder.at(tmp_path / "study"))

    return make


def finish(graph: StageGraph) -> None:
    for stage in graph.until("report"):
        stage.start()
        stage.commit(ReportResult())


def stale(graph: StageGraph) -> set[str]:
    return {stage.name for stage in graph.until("report") if not stage.done()}


def test_a_new_study_has_all_stages_before_it_and_a_finished_one_none(graph: Make) -> None:
    assert stale(graph()) == ALL
    finish(graph())
    assert stale(graph()) == set()


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"data__max_length": 64}, ALL),
        ({"data__leak_words": 9}, ALL),
        ({"model__dtype": "bfloat16"}, ALL),
        ({"pool": [{"path": "pool/*.jsonl", "source": "x"}]}, ALL),
        ({"targets__sums": {"validation": "targets/sums/validation.jsonl"}}, ALL),
        ({"lora__rank": 4}, ALL - {"prepare", "select/random", "evaluate/base"}),
        ({"deepspeed__stage": 3}, ALL - {"prepare", "select/random", "evaluate/base"}),
        ({"warmup__epochs": 3}, {"warmup"} | AFTER_FEATURES),
        ({"features__dim": 32}, AFTER_FEATURES),
        ({"selection__budget": 5}, AFTER_SELECT),
        ({"selection__methods": ["random", "less", {"method": "bids", "normalize": False}]}, BIDS),
        (
            {"selection__methods": ["less", "bids", {"method": "random", "seeds": [1]}]},
            {n.replace("bids", "random") for n in BIDS},
        ),
        ({"selection__methods": ["random", "less"]}, {"report"}),
        ({"selection__unit": "tokens"}, AFTER_SELECT),
        ({"selection__damping": 0.3}, set()),
        ({"selection__attribution": "fisher"}, {"attribution/fisher-0.1", "report", *INFLUENCE}),
        (
            {"selection__methods": ["random", {"method": "less", "seeds": [0, 1]}, "bids"]},
            {*(f"{stage}/less-{seed}" for stage in ("finetune", "evaluate") for seed in (0, 1)), "report"},
        ),
        ({"embedding": {"max_length": 8}}, set()),
        ({"finetune__seed": 1}, TRAINED | {"report"}),
        ({"evaluation__token_budget": 256}, {f"evaluate/{name}" for name in ["base", *METHODS]} | {"report"}),
        ({"evaluation__confidence": 0.9}, {"report"}),
        (
            {"evaluation__form_and_content": True},
            {*(f"evaluate/{name}" for name in ["base", *METHODS]), "answers/heldout", "report"},
        ),
        (
            {"selection__attribution": "contrast"},
            {"answers/validation", "contrast", "attribution/contrast", "report", *INFLUENCE},
        ),
        ({"answers__seed": 1}, set()),
        ({"evaluation__headroom": True}, {"headroom", "report"}),
        ({"targets__sums__served_by": ["baskets"]}, set()),
        ({"resources__actors": 7, "resources__max_failures": 0, "model__trust_remote_code": True}, set()),
    ],
)
def test_a_changed_key_redoes_exactly_the_stages_that_depend_on_it(
    changed: dict[str, Any], expected: set[str], graph: Make
) -> None:
    finish(graph())
    assert stale(graph(**changed)) == expected
    assert stale(graph()) == set()


def test_another_method_adds_its_stages_and_leaves_the_others(graph: Make) -> None:
    finish(graph())
    raw = {"method": "bids", "name": "raw", "normalize": False}
    assert stale(graph(selection__methods=[*METHODS, raw])) == {"select/raw", "finetune/raw", "evaluate/raw", "report"}


def test_only_what_the_methods_read_is_made(graph: Make, tiny_model: Path) -> None:
    def stages(*methods: Any) -> list[str]:
        made = graph(selection__methods=list(methods), embedding={"encoder": str(tiny_model)})
        return [stage.name for stage in made.until("select") if not stage.name.startswith("select/")]

    assert stages("random", "longest", "proportional") == ["prepare"]
    assert stages("ifd", "perplexity") == ["prepare", "likelihood"]
    assert stages("smart", "facility_location") == ["prepare", "embed"]
    assert stages("rds") == ["prepare", "hidden_states"]
    assert stages("g2is") == ["prepare", "warmup", "features"]
    gradients = ["prepare", "warmup", "features"]
    assert stages("less", "bids", "sum") == [*gradients, "attribution/cosine"]
    damped = {"method": "bids", "attribution": "fisher", "damping": 0.5}
    means = {"method": "less", "average": "gradients"}
    assert stages({"method": "g2is", "attribution": "contrast"}) == [
        "prepare",
        "answers/validation",
        *gradients[1:],
        "contrast",
    ]
    assert stages(damped, means) == [*gradients, "attribution/fisher-0.5", "attribution/cosine-subtasks"]


def test_another_draw_of_answers_redoes_what_reads_them(graph: Make) -> None:
    changed = {"selection__attribution": "contrast", "evaluation__form_and_content": True}
    finish(graph(**changed))
    evaluated = {f"evaluate/{name}" for name in ["base", *METHODS]}
    answers = {"answers/validation", "answers/heldout", "contrast", "attribution/contrast", "report", *INFLUENCE}
    assert stale(graph(**changed, answers={"seed": 1})) == answers | evaluated


def test_metrics_go_by_gradients_that_are_there(graph: Make) -> None:
    methods = [{"method": "g2is", "attribution": "cosine"}]
    made = graph(selection__methods=methods, selection__attribution="contrast")
    spec = metrics_spec(made.config)
    assert spec is not None and spec.form == "cosine"
    assert not any(stage.name == "contrast" for stage in made.until("report"))


def test_another_encoder_redoes_what_reads_its_embeddings(graph: Make, tiny_model: Path, tmp_path: Path) -> None:
    methods = {"selection__methods": ["random", "smart"]}
    finish(graph(**methods, embedding={"encoder": str(tiny_model)}))
    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    assert stale(graph(**methods, embedding={"encoder": str(other)})) == set()
    (other / "config.json").write_text("{}")
    after = {f"{stage}/smart" for stage in ("select", "finetune", "evaluate")}
    assert stale(graph(**methods, embedding={"encoder": str(other)})) == {"embed", "report", *after}


def test_a_changed_file_redoes_everything_and_a_moved_one_nothing(graph: Make, tmp_path: Path) -> None:
    finish(graph())
    moved = tmp_path / "moved"
    moved.mkdir()
    for part in ("pool", "targets"):
        (tmp_path / part).rename(moved / part)
    assert stale(graph(root=str(moved))) == set()
    with (moved / "targets/sums/heldout.jsonl").open("a") as stream:
        stream.write("\n")
    assert stale(graph(root=str(moved))) == ALL


def test_a_template_counts_by_its_text(graph: Make, tmp_path: Path) -> None:
    for name, text in (("a.jinja", "{{ messages }}"), ("b.jinja", "{{ messages }}"), ("c.jinja", "{{ messages }}!")):
        (tmp_path / name).write_text(text)
    finish(graph(model__chat_template=str(tmp_path / "a.jinja")))
    assert stale(graph(model__chat_template=str(tmp_path / "b.jinja"))) == set()
    assert stale(graph(model__chat_template=str(tmp_path / "c.jinja"))) == ALL
    assert stale(graph()) == ALL


def test_micro_batches_do_not_count_and_batches_do(graph: Make) -> None:
    """A training that ran out of memory was begun anew with smaller micro batches."""
    trained = {"warmup", "finetune/bids"}
    sizes = {"warmup__micro_batch_size": 8, "finetune__micro_batch_size": 8}
    finish(graph(**sizes))
    assert stale(graph(**dict.fromkeys(sizes, 1))) == set()
    assert trained <= stale(graph(warmup__batch_size=3, finetune__batch_size=3))


def test_a_deepspeed_file_counts_by_its_text(graph: Make, tmp_path: Path) -> None:
    for name, text in (("a.json", "{}"), ("b.json", "{}"), ("c.json", "{ }")):
        (tmp_path / name).write_text(text)
    finish(graph(deepspeed__config=str(tmp_path / "a.json")))
    assert stale(graph(deepspeed__config=str(tmp_path / "b.json"), deepspeed__stage=3)) == set()
    assert "warmup" in stale(graph(deepspeed__config=str(tmp_path / "c.json")))


def test_stages_come_in_the_order_they_run(graph: Make) -> None:
    made = graph()
    assert [stage.name for stage in made.until("warmup")] == ["prepare", "warmup"]
    assert [stage.name for stage in made.until("select")][-3:] == ["select/random", "select/less", "select/bids"]
    names = [stage.name for stage in made.until("report")]
    assert len(names) == len(set(names)) == len(ALL)
    for stage in made.until("report"):
        assert all(names.index(parent.name) < names.index(stage.name) for parent in stage.parents)
        assert stage.folder.path.endswith(f"/study/{stage.name}")


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"pool": [{"path": "none.jsonl"}]}, "pool.0.path: file .*none.jsonl does not exist"),
        ({"pool": [{"path": "pool", "config": "x"}]}, "pool.0.path: .*pool: it has no configuration `x`; remove"),
        ({"targets__sums__heldout": "none.jsonl"}, "targets.sums.heldout: file .*none.jsonl does not exist"),
        ({"model__chat_template": "none.jinja"}, "model.chat_template: file none.jinja does not exist"),
        ({"deepspeed__config": "none.json"}, "deepspeed.config: file none.json does not exist"),
        ({"model__name": "."}, "model.name: . is a folder without a config.json"),
    ],
)
def test_a_missing_file_is_named_by_its_key(changed: dict[str, Any], what: str, graph: Make) -> None:
    with pytest.raises(InputError, match=what):
        graph(**changed)


def test_a_run_is_a_method_or_a_seed_of_it(tiny_study: Callable[..., dict[str, Any]]) -> None:
    methods = [{"method": "random", "seeds": [3, 1]}, {"method": "random", "name": "one", "seeds": [5]}]
    methods.append({"method": "bids", "seeds": [0, 7]})
    runs = runs_of(parse_study(tiny_study(selection={"budget": 1, "methods": methods}), "study.yaml"))
    assert [(name, run.name, run.selection, run.seed) for name, run in runs.items()] == [
        ("random-3", "random-3", "random-3", 3),
        ("random-1", "random-1", "random-1", 1),
        ("one", "one", "one", 5),
        ("bids-0", "bids-0", "bids", 0),
        ("bids-7", "bids-7", "bids", 7),
    ]


def test_every_method_has_runs_at_each_budget(tiny_study: Callable[..., dict[str, Any]]) -> None:
    methods = [{"method": "random", "seeds": [0, 1]}, {"method": "bids", "seeds": [0, 1]}, "full_pool"]
    study = tiny_study(selection={"budget": [0.25, 0.05], "methods": methods})
    runs = runs_of(parse_study(study, "study.yaml"))
    assert [(run.name, run.selection, run.arm, run.budget) for run in runs.values()] == [
        ("random@0.05-0", "random@0.05-0", "random@0.05", 0.05),
        ("random@0.05-1", "random@0.05-1", "random@0.05", 0.05),
        ("random@0.25-0", "random@0.25-0", "random@0.25", 0.25),
        ("random@0.25-1", "random@0.25-1", "random@0.25", 0.25),
        ("bids@0.05-0", "bids@0.05", "bids@0.05", 0.05),
        ("bids@0.05-1", "bids@0.05", "bids@0.05", 0.05),
        ("bids@0.25-0", "bids@0.25", "bids@0.25", 0.25),
        ("bids@0.25-1", "bids@0.25", "bids@0.25", 0.25),
        ("full_pool", "full_pool", "full_pool", 0.25),
    ]


@pytest.mark.parametrize(
    ("methods", "name"),
    [
        ([{"method": "random", "seeds": [1, 2]}, {"method": "less", "name": "random-2"}], "random-2"),
        ([{"method": "random", "seeds": [1, 1]}], "random-1"),
        (
            [{"method": "random", "name": "r", "seeds": [1, 2]}, {"method": "bids", "name": "r-1", "seeds": [5, 6]}],
            "r-1-5",
        ),
    ],
)
def test_two_runs_of_one_name_are_refused(
    methods: list[dict[str, Any]], name: str, tiny_study: Callable[..., dict[str, Any]]
) -> None:
    with pytest.raises(InputError, match=f"selection.methods: two runs would be called '{name}'"):
        runs_of(parse_study(tiny_study(selection={"budget": 1, "methods": methods}), "study.yaml"))


@pytest.mark.process
def test_looking_at_a_study_loads_neither_ray_nor_torch() -> None:
    modules = "instsel.cli.app, instsel.pipeline.runner"
    code = f"import sys, {modules}; print({{'ray', 'torch', 'transformers'}} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_what_selections_serve_is_told_by_the_studys_own_form_where_a_method_reads_it(
    tiny_study: Callable[..., dict[str, Any]],
) -> None:
    def way(*methods: Any, form: str = "cosine") -> str | None:
        selection = {"budget": 1, "attribution": form, "methods": list(methods)}
        found = metrics_spec(parse_study(tiny_study(selection=selection), "study.yaml"))
        return found.name if found else None

    fisher = {"method": "bids", "attribution": "fisher"}
    assert way("random", "longest") is None
    assert way(fisher, "less") == "cosine"
    assert way(fisher) == "fisher-0.1"
    assert way("g2is", form="fisher") == "fisher-0.1"
    assert way({"method": "less", "average": "gradients"}) == "cosine"


def test_a_finished_study_differs_where_its_file_was_changed(finished_study):
    folder = Folder.at(finished_study["out"])
    graph = build_graph(parse_study(finished_study, "test"), folder)
    manifests = {stage.name: stage.manifest() for stage in graph.until("report")}
    assert stale_settings(StudyReader(folder).stages(), manifests) == {}
    parts = {"selection": {**finished_study["selection"], "budget": 0.5}, "lora": {"rank": 4, "alpha": 4.0}}
    changed = build_graph(parse_study({**finished_study, **parts}, "test"), folder).describe()
    stale = stale_settings({stage["name"]: stage["settings"] for stage in changed}, manifests)
    assert stale["select/bids"] == ["budget"] and stale["finetune/bids"] == stale["warmup"] == ["lora.rank"]
    assert not {"prepare", "features", "evaluate/base"} & stale.keys()


def test_settings_that_another_version_had_or_lacked_are_passed_over():
    before = {"dim": 64, "gone": 1}
    manifests: dict[str, Any] = {"features": {"settings": before}, "warmup": None, "select/former": {"settings": {}}}
    now = {"features": {"dim": 64, "new": 2}, "warmup": {"epochs": 1}}
    assert stale_settings(now, manifests) == {}
    assert stale_settings({"features": {"dim": 65}}, manifests) == {"features": ["dim"]}
