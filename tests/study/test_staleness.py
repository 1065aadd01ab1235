"""Which finished stages a study file would make otherwise."""

from typing import Any

from instsel.config.file import parse_study
from instsel.io.store import Folder
from instsel.pipeline.registry import build_graph
from instsel.study.reader import StudyReader
from instsel.study.staleness import stale_settings


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
