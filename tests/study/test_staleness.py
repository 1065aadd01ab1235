"""Which finished stages a study file would make otherwise."""

from instsel.config.file import parse_study
from instsel.io.store import Folder
from instsel.pipeline.registry import build_graph
from instsel.study.staleness import stale_stages


def test_a_finished_study_differs_where_its_file_was_changed(finished_study):
    study = parse_study(finished_study, "test")
    graph = build_graph(study, Folder.at(finished_study["out"]))
    manifests = {stage.name: stage.manifest() for stage in graph.until("report")}
    assert stale_stages(study, manifests) == {}
    parts = {"selection": {**finished_study["selection"], "budget": 0.5}, "lora": {"rank": 4, "alpha": 4.0}}
    found = stale_stages(parse_study({**finished_study, **parts}, "test"), manifests)
    assert found["select/bids"] == ["budget"] and found["finetune/bids"] == found["warmup"] == ["lora.rank"]
    assert not {"prepare", "features", "evaluate/base"} & found.keys()


def test_settings_that_another_version_had_or_lacked_are_passed_over(finished_study):
    study = parse_study(finished_study, "test")
    config = {"dim": 64, "gone": 1}
    assert stale_stages(study, {"features": {"config": config}, "warmup": None, "select/former": {"config": {}}}) == {}
    assert stale_stages(study, {"features": {"config": {**config, "dim": 65}}}) == {"features": ["dim"]}
