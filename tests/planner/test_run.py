"""A small study is planned, and compared with what it really used when it ran."""

import json
import tempfile
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from instsel.cli.app import app
from instsel.config.file import parse_study
from instsel.config.study import Data
from instsel.console import Terminal
from instsel.errors import InputError, StudyError
from instsel.evaluation.scoring import answers_alone
from instsel.io.store import Folder
from instsel.pipeline.registry import build_graph, stage_names
from instsel.planner import sampled_files as plan_sample
from instsel.planner.estimate import open_stages
from instsel.planner.run import _log_file, free_bytes, plan_study
from instsel.planner.sampled_files import SIGNATURE_BYTES, sampled_rows
from instsel.study.folder import FORMAT


def contents(folder):
    return {str(path): path.stat().st_mtime_ns for path in Path(folder).rglob("*")}


@pytest.fixture(scope="module")
def planned(finished_study, tmp_path_factory):
    """The plan of the finished study as it was before it ran, by stage, and the folder it was planned for."""
    out = tmp_path_factory.mktemp("planned") / "study"
    raw = {**finished_study, "out": str(out)}
    plan = plan_study(parse_study(raw, "test"), Terminal(), free_disk=lambda folder: 1000)
    return {stage.name: stage for stage in plan.stages}, plan.warnings, out


@pytest.fixture(scope="module")
def used(finished_study):
    """Manifests of the finished study by stage; of `select`, `finetune` and `evaluate` one a run."""
    graph = build_graph(parse_study(finished_study, "test"), Folder.at(finished_study["out"]))
    manifests: dict = {}
    for stage in graph.until("evaluate"):
        manifests.setdefault(stage.name.partition("/")[0], []).append(stage.manifest())
    return manifests


def test_of_a_finished_study_nothing_is_left(finished_study, capsys):
    before = contents(finished_study["out"])
    plan = plan_study(parse_study(finished_study, "test"), Terminal())
    assert all(stage.done for stage in plan.stages)
    assert "nothing to do" in capsys.readouterr().out
    assert contents(finished_study["out"]) == before


def test_rows_and_tokens_are_those_that_the_study_had(planned, used):
    stages, _, _ = planned
    result = used["prepare"][0]["result"]
    targets = result["targets"].values()
    validation, heldout = (sum(counts[split]["rows"] for counts in targets) for split in ("validation", "heldout"))
    pool = result["pool"]["rows"]
    assert stages["prepare"].rows == pool + validation + heldout
    assert stages["warmup"].rows == 2 * used["warmup"][0]["result"]["rows"]
    assert stages["features"].rows == 2 * (pool + validation)
    assert stages["features"].tokens == used["features"][0]["cost"]["tokens"]
    assert stages["attribution"].rows == 2 * used["attribution"][0]["result"]["rows"]
    assert stages["finetune"].rows == sum(manifest["result"]["rows"] for manifest in used["select"])
    assert stages["evaluate"].rows == 3 * heldout
    assert stages["evaluate"].tokens == sum(manifest["cost"]["tokens"] for manifest in used["evaluate"])


def test_which_rows_are_trained_on_is_open_but_their_number_of_steps_is_not(planned, used):
    stages, _, _ = planned
    for name in ("warmup", "finetune"):
        tokens = sum(manifest["cost"]["tokens"] for manifest in used[name])
        assert stages[name].tokens == pytest.approx(tokens, rel=0.25)
        steps = [list(manifest["result"]["checkpoints"].values())[-1]["step"] for manifest in used[name]]
        assert stages[name].batches == sum(steps)


@pytest.mark.parametrize(
    ("stage", "folders"),
    [
        ("prepare", ["prepare"]),
        ("warmup", ["warmup"]),
        ("features", ["features/epoch-1", "features/epoch-2"]),
        ("attribution", ["attribution/cosine/blocks"]),
        ("finetune", ["finetune"]),
    ],
)
def test_disk_is_within_a_quarter_of_what_the_study_took(planned, finished_study, stage, folders):
    stages, _, _ = planned
    written = sum(Folder.at(Path(finished_study["out"], folder)).size() for folder in folders)
    assert stages[stage].disk == pytest.approx(written, rel=0.25)


@pytest.mark.parametrize("stage", ["warmup", "features", "finetune", "evaluate", "prepare", "attribution"])
def test_memory_is_about_what_a_process_of_the_stage_had(planned, used, stage):
    stages, _, _ = planned
    peak = max(manifest["cost"]["peak_memory_bytes"] for manifest in used[stage])
    assert 0.7 < stages[stage].memory / peak < 1.4


def test_every_stage_takes_some_time_and_none_of_a_tiny_study_takes_an_hour(planned):
    stages, _, _ = planned
    assert all(0 < stage.seconds < 3600 for stage in stages.values())


def test_a_disk_that_is_too_small_is_warned_of(planned):
    _, warnings, out = planned
    assert len(warnings) == 1
    assert warnings[0].startswith("disk: ")
    assert f"{out} has 1.0 kB free" in warnings[0]


def test_nothing_is_written_where_the_study_will_be(planned):
    _, _, out = planned
    assert not out.exists()


@pytest.mark.long
def test_what_is_done_is_shown_as_done_and_only_the_rest_is_planned(finished_study, capsys):
    before = contents(finished_study["out"])
    raw = {**finished_study, "finetune": {"epochs": 3, "batch_size": 4}}
    plan = plan_study(parse_study(raw, "test"), Terminal())
    assert contents(finished_study["out"]) == before
    stages = {stage.name: stage for stage in plan.stages}
    assert [name for name, stage in stages.items() if not stage.done] == ["finetune", "evaluate"]
    assert stages["finetune"].rows == 3 * 2 * 6
    # The base model's losses stay.
    assert stages["evaluate"].rows == 2 * 8
    shown = capsys.readouterr().out
    assert "24 rows of the pool, which are prepared already" in shown
    assert "| features | – | – | – | done | – | – |" in shown
    assert "batches of evaluate" in shown
    assert "batches of features" not in shown


EVERY_METHOD = [
    "random",
    "proportional",
    "equal",
    "longest",
    "perplexity",
    "ifd",
    "rds",
    {"method": "less", "average": "gradients"},
    "bids",
    {"method": "bids", "name": "bids-fisher", "attribution": "fisher", "seeds": [1, 2]},
    "instance_max",
    {"method": "task_max", "normalize": True},
    "sum",
    {"method": "g2is", "attribution": "fisher"},
    {"method": "smart", "by": "task"},
    "facility_location",
    "graph_cut",
    "log_det",
]


@pytest.mark.long
def test_a_study_of_every_method_has_every_stage(finished_study, prepared, tiny_encoder):
    raw = {
        **finished_study,
        "embedding": {"encoder": str(tiny_encoder), "max_length": 32},
        "selection": {"budget": 0.25, "unit": "tokens", "methods": EVERY_METHOD},
    }
    before = contents(finished_study["out"])
    stages = {stage.name: stage for stage in plan_study(parse_study(raw, "test"), Terminal()).stages}
    assert contents(finished_study["out"]) == before
    assert list(stages) == [name for name in stage_names() if name not in ("categorize", "interaction", "report")]
    assert [name for name, stage in stages.items() if stage.done] == ["prepare", "warmup", "features"]
    left = [stage for stage in stages.values() if not stage.done]
    assert all(0 < stage.seconds < 3600 and stage.disk and stage.memory for stage in left)
    assert [stages[name].rows for name in ("embed", "hidden_states", "likelihood")] == [24 + 8, 24 + 8, 2 * 24]
    assert stages["embed"].disk == (24 + 8) * (20 + 32 * 4) + 5 * 800
    # Of cosines, cosines with subtasks' means, and fisher, the first are there; two checkpoints.
    assert stages["attribution"].rows == 2 * 2 * 24
    assert stages["select"].rows == len(EVERY_METHOD) * 24
    # Two runs share a selection that does not draw; a quarter of the tokens is five rows of mean length.
    assert stages["finetune"].rows == (len(EVERY_METHOD) + 1) * 5
    shards = prepared.manifest()["result"]["pool"]["shards"]
    rows = [row for shard in shards for row in (prepared.folder / "pool").read_table(f"{shard}.parquet").to_pylist()]
    alone = [answer for row in rows for answer in answers_alone(row)]
    assert stages["likelihood"].tokens == sum(len(row["input_ids"]) for row in [*rows, *alone])


def test_stages_that_no_method_needs_are_not_planned(tiny_study):
    raw = tiny_study(selection={"budget": 0.25, "methods": ["random", "ifd"]})
    todo = open_stages(build_graph(parse_study(raw, "test"), Folder.at(raw["out"])))
    assert list(todo) == ["prepare", "likelihood", "select", "finetune", "evaluate"]
    assert todo["likelihood"] == [""]
    assert todo["evaluate"] == ["base", "random", "ifd"]


def test_rows_that_prepare_would_set_aside_are_left_out(tiny_study, write_rows, ray_session):
    raw = tiny_study(pool_rows=6)
    lines = [json.loads(line) for line in Path(raw["root"], "pool/rows.jsonl").read_text().splitlines()]
    leak = Path(raw["root"], "targets/sums/heldout.jsonl").read_text().splitlines()[0]
    write_rows("pool/rows.jsonl", [*lines, lines[0], {"messages": []}, json.loads(leak)])
    sample = sampled_rows(parse_study(raw, "test"), Terminal())
    assert [part.rows.rows for part in sample.pool] == [6]
    assert "9 rows in 1 file of the pool; 9 of them tokenised: counts are exact" in sample.summary


def test_near_copies_take_time_and_space_where_they_are_looked_for(tiny_study, ray_session, monkeypatch):
    monkeypatch.setattr(plan_sample, "NEAR_COPY_PASSES", 0)
    reported, unlooked = (
        sampled_rows(parse_study(tiny_study(pool_rows=50, data={"near_duplicates": mode}), "test"), Terminal())
        for mode in ("report", "off")
    )
    rows = sum(part.rows.rows for part in reported.pool)
    assert reported.preparation.disk - unlooked.preparation.disk == SIGNATURE_BYTES * rows
    usable = reported.pool[0].read()
    monkeypatch.setattr(plan_sample, "NEAR_COPY_PASSES", 2)
    assert plan_sample._near_copy_seconds(usable, Data()) > 0
    assert plan_sample._near_copy_seconds(usable, Data(near_duplicates="off")) == 0


def test_of_a_large_file_a_sample_is_tokenised_and_every_row_counted(tiny_study, ray_session, monkeypatch):
    study = parse_study(tiny_study(pool_rows=50), "test")
    whole = sampled_rows(study, Terminal()).pool[0].rows
    monkeypatch.setattr(plan_sample, "ROWS_PER_FILE", 20)
    sample = sampled_rows(study, Terminal())
    rows = sample.pool[0].rows
    assert (rows.rows, len(rows.lengths), rows.shards) == (50, 20, 7)
    assert rows.tokens == pytest.approx(whole.tokens, rel=0.2)
    assert "20 of them tokenised, at most 20 a file: tokens are estimated" in sample.summary


def test_a_pool_without_a_usable_row_is_refused(tiny_study, write_rows, ray_session):
    raw = tiny_study(pool_rows=3)
    write_rows("pool/rows.jsonl", [{"messages": []}])
    with pytest.raises(
        InputError, match="pool: no usable row; rows were rejected: 1 x `messages` is not a list of turns"
    ):
        sampled_rows(parse_study(raw, "test"), Terminal())


def test_an_entry_without_a_usable_row_is_refused_as_by_the_run(tiny_study, write_rows, ray_session):
    entries = [*tiny_study()["pool"], {"path": str(write_rows("other.jsonl", [{"ask": "Why?"}]))}]
    with pytest.raises(InputError, match=r"^pool\.1\.path: no usable row; .*; correct it, or set allow_empty: true"):
        sampled_rows(parse_study(tiny_study(pool=entries), "s"), Terminal())
    entries[1]["allow_empty"] = True
    assert sampled_rows(parse_study(tiny_study(pool=entries), "s"), Terminal()).pool


def test_a_budget_above_the_pool_is_refused(tiny_study, ray_session):
    raw = tiny_study(pool_rows=9, selection={"budget": 1000, "methods": ["random"]})
    with pytest.raises(InputError, match="selection.budget is 1000 rows, but the pool has 9"):
        plan_study(parse_study(raw, "test"), Terminal())
    assert not Path(raw["out"]).exists()


def test_a_folder_of_another_study_is_refused(tiny_study):
    raw = tiny_study()
    Folder.at(raw["out"]).write_json("study.json", {"name": "other", "format": FORMAT})
    with pytest.raises(InputError, match="holds the study 'other', not 'tiny'"):
        plan_study(parse_study(raw, "test"), Terminal())


def test_free_space_is_that_of_the_nearest_folder_that_exists(tmp_path):
    assert free_bytes(Folder.at(tmp_path / "a" / "b")) == free_bytes(Folder.at(tmp_path))
    assert free_bytes(Folder.at("memory://bucket/study")) is None


def test_the_log_file_stays_only_where_the_plan_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with _log_file() as log_file:
        log_file.write_text("fine")
    assert not log_file.parent.exists()
    failed = pytest.raises(StudyError, match=r"a worker failed \(.*plan.log\)")
    with failed, _log_file() as log_file:
        log_file.write_text("why")
        raise StudyError("a worker failed")
    assert log_file.read_text() == "why"
    with pytest.raises(InputError), _log_file() as log_file:
        raise InputError("no such file")
    assert not log_file.parent.exists()


def test_the_command_says_what_is_left_and_names_what_is_wrong(finished_study, tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(finished_study))
    result = CliRunner().invoke(app, ["plan", str(path)])
    assert result.exit_code == 0, result.output
    assert "nothing to do" in result.stdout
    result = CliRunner().invoke(app, ["plan", str(path), "--set", "pool.0.path=nowhere.jsonl"])
    assert result.exit_code == 2
    assert "pool.0.path" in result.stderr


def test_a_study_without_targets_is_planned(ray_session, tiny_study, capsys):
    raw = tiny_study(targets={}, selection={"budget": 4, "methods": ["random", "longest"]})
    plan = plan_study(parse_study(raw, "test"), Terminal())
    stages = {stage.name: stage for stage in plan.stages}
    assert stages["prepare"].rows == 24 and stages["finetune"].rows == 8
    assert "| evaluate | 0 |" in capsys.readouterr().out


def test_an_entry_of_the_pool_that_gives_no_row_ends_the_plan(ray_session, tiny_study, tmp_path):
    raw = tiny_study()
    (tmp_path / "other.csv").write_text("ask,reply\nWhy?,So.\n")
    raw["pool"].append({"path": str(tmp_path / "other.csv")})
    with pytest.raises(
        InputError, match=r"^pool\.1\.path: no usable row; rows were rejected: 1 x .* allow_empty: true$"
    ):
        sampled_rows(parse_study(raw, "test"), Terminal())
    raw["pool"][1]["allow_empty"] = True
    summary = sampled_rows(parse_study(raw, "test"), Terminal()).summary
    assert "other.csv: of 1 rows that were looked at, rows were rejected: 1 x no turns" in summary


def test_filters_that_leave_nothing_are_named_in_the_plan(ray_session, tiny_study):
    raw = tiny_study(data={"filters": [{"filter": "length", "min": 5000}]})
    with pytest.raises(
        InputError, match=r"^pool: no usable row; data\.filters: of \d+ rejected rows 'length' rejected"
    ):
        sampled_rows(parse_study(raw, "test"), Terminal())
