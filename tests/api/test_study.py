"""A finished study opened again: what is read is what the stages wrote."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pyarrow import fs as pafs

import instsel
from instsel.choice.reselect import SelectionRequest, reselect
from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.study.attribution_specs import metrics_spec
from instsel.study.reader import StudyReader


def changed(folder: Path, stage: str, **values: object) -> None:
    """Change what a stage says of itself."""
    path = folder / stage / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_the_package_and_open_study_need_no_model_and_no_ray(finished_study):
    code = (
        "import sys, instsel\n"
        "assert len([name for name in sys.modules if name.startswith('instsel')]) == 1\n"
        f"study = instsel.open_study({finished_study['out']!r})\n"
        "study.served(), study.losses()\n"
        "assert not {'ray', 'torch', 'transformers'} & set(sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""


def test_it_opens_by_path_by_text_and_from_a_relative_path(finished_study, monkeypatch):
    out = Path(finished_study["out"])
    monkeypatch.chdir(out.parent)
    opened = instsel.open_study(out.name)
    monkeypatch.chdir("/")
    assert opened.path == instsel.open_study(out).path == str(out)
    assert opened.name == "tiny" and len(opened.pool) == 24
    assert repr(opened) == f"<Study 'tiny' in {out}>"


def test_a_study_in_a_store_reads_as_on_a_disk(study, object_store):
    pafs.copy_files(study.path, "studies/one", pafs.LocalFileSystem(), object_store.direct)
    remote = instsel.open_study("s3://studies/one")
    assert remote.stages.equals(study.stages) and remote.losses().equals(study.losses())
    np.testing.assert_array_equal(remote.features().to_numpy(), study.features().to_numpy())
    name = remote.select("bids", 3)
    assert len(remote.selection(name)) == 3 and name not in study.selections


def test_tables_say_what_the_report_says(study, finished_study):
    summary = json.loads(Path(finished_study["out"], "report/summary.json").read_text())
    assert study.summary == summary
    losses = study.losses().to_pandas().set_index("run")
    assert list(losses.index) == study.runs == ["base", "random", "bids"]
    for run, by_target in summary["losses_by_run"].items():
        assert losses.loc[run, ["cities", "sums", "mean"]].tolist() == pytest.approx(
            [by_target["cities"], by_target["sums"], by_target["mean"]]
        )
    comparison = study.comparison().to_pandas().set_index(["method", "target"])
    assert comparison.loc[("bids", "mean"), "low"] == summary["differences"]["bids"]["mean"]["low"]
    assert comparison.loc[("bids", "mean"), "adjusted_p"] == summary["adjusted_p"]["bids"]["mean"]
    assert comparison.loc["random", ["difference", "low", "high"]].isna().all(axis=None)
    heldout = study.heldout("bids", "sums")
    assert np.mean(heldout["loss"].to_numpy()) == pytest.approx(summary["losses"]["bids"]["sums"])
    assert heldout["id"].to_pylist() == study.examples("sums", "heldout")["id"].to_pylist()
    served = study.served("bids").to_pandas().set_index("target")
    assert served["rows"].to_dict() == summary["metrics"]["by_selection"]["bids"]["served"]
    assert served["influence"].to_dict() == pytest.approx(summary["metrics"]["by_selection"]["bids"]["influence"])


def test_every_stage_is_listed_with_its_cost(study):
    stages = study.stages.to_pandas().set_index("stage")
    assert stages["done"].all() and stages["current"].all()
    assert list(stages.index[:4]) == ["prepare", "warmup", "features", "attribution/cosine"]
    assert stages.index[-1] == "report" and len(stages) == 12
    assert stages.loc["features", "tokens"] > 0 and stages.loc["features", "peak_memory_bytes"] > 0
    assert set(stages["version"]) == {instsel.__version__}


def test_selections_and_rows_are_those_of_the_files(study, finished_study):
    assert study.selections == ["random", "bids"]
    chosen = study.selection("bids")
    lines = Path(finished_study["out"], "select/bids/selected.jsonl").read_text().splitlines()
    expected = [json.loads(line) for line in lines]
    rows = study.rows(chosen["id"].to_pylist()).to_pylist()
    assert [(row["id"], row["messages"], row["source"]) for row in rows] == [
        (row["id"], row["messages"], row["source"]) for row in expected
    ]
    twice = [rows[1]["id"], rows[0]["id"], rows[1]["id"]]
    assert study.rows(twice)["id"].to_pylist() == twice
    empty = study.rows([])
    assert empty.num_rows == 0 and empty.schema == study.rows(twice).schema


def test_influence_and_features_are_those_that_selections_read(study, finished_study):
    reader = StudyReader(Folder.at(finished_study["out"]))
    (name,) = study.influences
    attribution = study.attribution(name)
    matrix = reader.influence(metrics_spec(study.config))
    assert attribution.ids == matrix.ids and attribution.columns.equals(matrix.columns)
    np.testing.assert_array_equal(attribution.to_numpy(), matrix.values)
    assert study.checkpoints == ["epoch-1", "epoch-2"]
    shard = reader.shards[1]
    ids, checkpoints = reader.gradients.pool(shard)
    for name, rows in zip(study.checkpoints, checkpoints, strict=True):
        block = study.features(name).block(shard)
        assert block.ids == ids
        np.testing.assert_array_equal(block.values, rows)
    gradients = reader.gradients.validation(reader.columns())[1]
    validation = study.features(kind="validation")
    unit = gradients / np.linalg.norm(gradients, axis=1, keepdims=True)
    np.testing.assert_allclose(validation.of(reader.columns()["id"].to_pylist()), unit, atol=1e-3)
    np.testing.assert_allclose(validation.norms, np.linalg.norm(gradients, axis=1), rtol=1e-3)


def test_a_selection_is_the_one_that_the_command_makes(copied):
    study = instsel.open_study(copied)
    name = study.select("g2is", 3, targets="sums", attribution="fisher", fill="similarity", delta=0.9)
    assert name == "g2is-3-sums-fisher-fillsimilarity-delta0.9"
    assert study.selections == ["random", "bids", name]
    selection = study.selection(name)
    options = ["fill=similarity", "delta=0.9"]
    request = SelectionRequest("g2is", "3", "rows", ["sums"], options, "fisher", "twice")
    folder = reselect(str(copied), request, print).folder
    assert selection.equals(folder.read_table("selected.parquet"))
    explanation = study.explain(selection["id"][0].as_py())
    assert [standing.selection for standing in explanation.standings if standing.is_chosen][-2:] == [name, "twice"]
    assert set(study.served(name, "bids")["selection"].to_pylist()) == {name, "bids"}


def test_a_new_selection_with_a_name_of_the_study_file_has_its_path_as_name(copied):
    study = instsel.open_study(copied)
    before = study.selection("bids")
    name = study.select("bids", 0.5, name="bids")
    assert name == "selections/bids" and study.selections == ["random", "bids", name]
    assert len(study.selection(name)) == 12 and study.selection("bids").equals(before)


def test_what_a_method_warns_of_is_warned(copied):
    with pytest.warns(UserWarning, match="^strict: "):
        instsel.open_study(copied).select("g2is", 24, name="strict", delta=1.0)


def test_a_study_of_results_that_do_not_go_together_is_opened_with_one_warning(copied):
    changed(copied, "warmup", fingerprint="another")
    with pytest.warns(UserWarning, match=r"features, .* not of the other results .*: run the study again") as caught:
        study = instsel.open_study(copied)
    assert len(caught) == 1 and Path(caught[0].filename) == Path(__file__)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(study.losses()) == 3 and len(study.selection("bids")) == 6
        current = dict(zip(*(study.stages[name].to_pylist() for name in ("stage", "current")), strict=True))
    assert current["prepare"] and current["select/random"] and current["evaluate/base"]
    assert not current["features"] and not current["select/bids"] and not current["evaluate/bids"]
    for read in (study.features, study.attribution, lambda: study.select("bids", 3)):
        with pytest.raises(InputError, match="is not of the warmup that is there now; run the study again"):
            read()


def test_an_unfinished_study_says_what_is_missing(copied):
    for stage in ("report", "evaluate", "attribution", "select/bids"):
        shutil.rmtree(copied / stage)
    os.remove(copied / "finetune/bids/manifest.json")
    study = instsel.open_study(copied)
    stages = dict(zip(*(study.stages[name].to_pylist() for name in ("stage", "done")), strict=True))
    assert stages == {
        "prepare": True, "warmup": True, "features": True, "select/random": True, "finetune/random": True,
        "finetune/bids": False,
    }  # fmt: skip
    assert study.selections == ["random"] and study.runs == [] and study.influences == []
    assert len(study.rows(study.selection("random")["id"].to_pylist())) == 6
    resumes = "has no finished stage '{}'; `instsel run` with its study file resumes from there"
    for read, stage in (
        (study.losses, "evaluate"),
        (study.comparison, "report"),
        (lambda: study.heldout("bids", "sums"), "evaluate/bids"),
    ):
        with pytest.raises(InputError, match=resumes.format(stage)):
            read()
    with pytest.raises(InputError, match="no finished stage 'attribution/cosine'; run the study with a method"):
        study.attribution()
    shutil.rmtree(copied / "select")
    with pytest.raises(InputError, match=resumes.format("select")):
        study.selection("random")


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda study: study.embeddings, "no finished stage 'embed'"),
        (lambda study: study.hidden_states, "no finished stage 'hidden_states'"),
        (lambda study: study.likelihoods, "no finished stage 'likelihood'"),
        (lambda study: study.categories, "no finished stage 'categorize'"),
        (lambda study: study.interaction(), "no finished stage 'interaction'; run a study with the key `mixture`"),
        (lambda study: study.trials(), "no finished search; run `instsel search`"),
        (lambda study: study.rows(["nobody"]), "no pool row 'nobody'; `pool` lists them"),
        (lambda study: study.selection("../select/bids"), "no selection '../select/bids'; there are random, bids"),
        (lambda study: study.heldout("../x", "sums"), "no run '../x'; there are base, random, bids"),
        (lambda study: study.heldout("base", "law"), "no target 'law'; there are cities, sums"),
        (lambda study: study.examples("law"), "no target 'law'"),
        (
            lambda study: study.examples("sums", "train"),
            "target 'sums' has no 'train' rows; it has heldout, validation",
        ),
        (lambda study: study.attribution("fisher"), "no attribution 'fisher'; there are cosine"),
        (lambda study: study.served(attribution="fisher"), "no attribution 'fisher'; there are cosine"),
        (lambda study: study.features("epoch-9"), "no checkpoint 'epoch-9'; there are epoch-1, epoch-2"),
        (lambda study: study.features(kind="test"), "no kind 'test'; there are pool, validation"),
        (lambda study: study.select("bids", 0), "selection.budget: budget is 0"),
        (lambda study: study.select("bids", 3, targets=["law"]), "chooses for 'law'; targets are cities, sums"),
    ],
)
def test_what_is_not_there_is_named(study, read, message):
    with pytest.raises(InputError, match=message):
        read(study)


def test_a_folder_without_a_study_is_refused(tmp_path):
    with pytest.raises(InputError, match="is no study folder; give the `out` of a study that has run"):
        instsel.open_study(tmp_path)


@pytest.mark.parametrize("stage", ["attribution/cosine", "features"])
def test_a_folder_whose_names_lead_out_of_it_is_refused(copied, stage):
    outside = "../../../secret"
    result = json.loads((copied / stage / "manifest.json").read_text())["result"]
    if stage == "features":
        changed(copied, stage, result={**result, "provenance": {outside: result["provenance"]["epoch-1"]}})
    else:
        changed(copied, stage, result={**result, "shards": [outside]})
    study = instsel.open_study(copied)
    with pytest.raises(InputError, match=f"names a (shard|checkpoint) '{outside}', which no study has"):
        study.features() if stage == "features" else study.attribution()


def test_trials_and_interactions_are_tables_of_their_files(copied):
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, "mixture": {"categories": "source"}}))
    table = pq.read_table(copied / "prepare/index.parquet", columns=["id", "tokens"])
    manifest = {"fingerprint": "x", "parents": {}, "code_version": "0.4.0", "cost": {}, "result": {}}
    manifest |= {"stage": "search", "version": 1, "settings": {}, "inputs": {}}
    for stage, name in (("search", "trials.parquet"), ("interaction/gradients", "gamma.parquet")):
        (copied / stage).mkdir(parents=True)
        (copied / stage / "manifest.json").write_text(json.dumps(manifest))
        pq.write_table(table, copied / stage / name)
    study = instsel.open_study(copied)
    assert study.trials().equals(table) and study.interaction().equals(table)
    with pytest.raises(InputError, match="no estimator 'regression'; there are gradients"):
        study.interaction("regression")
