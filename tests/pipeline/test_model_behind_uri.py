"""A study whose model is behind s3://: prepared by a Ray of its own, and stale once the bucket has another model."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from instsel.config.file import parse_study
from instsel.config.study import StudyConfig
from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.models.dtypes import dtype_of, with_dtype
from instsel.pipeline.check import check_study
from instsel.pipeline.commands import _run_command
from instsel.pipeline.registry import build_graph
from instsel.study.folder import open_folder
from instsel.study.graph import StageGraph
from instsel.study.revisions import with_pinned_revisions
from tests.object_store import ObjectStore

URI = "s3://studies/toy"


@pytest.fixture
def raw(object_store: ObjectStore, tiny_study: Any, tiny_model: Path, tmp_path: Path, monkeypatch: Any) -> Any:
    """The keys of a study whose model is in the store; copies go to a folder of this test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for file in tiny_model.iterdir():
        Folder.at(URI).put(file.name, file)
    keys = tiny_study()
    return {**keys, "model": {**keys["model"], "name": URI}, "resources": {}}


def _graph(raw: Any) -> tuple[StudyConfig, StageGraph]:
    config = parse_study(raw, "test")
    folder = open_folder(config.out, config.name)
    pinned = with_pinned_revisions(config, folder)
    pinned = with_dtype(pinned, dtype_of(pinned.model))
    return pinned, build_graph(pinned, folder)


@pytest.mark.long
def test_a_study_is_prepared_by_a_model_in_a_bucket(raw: Any, tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text(json.dumps(raw))
    done = subprocess.run(
        [sys.executable, "-c", "from instsel.cli.app import app; app()", "run", "study.json", "--until", "prepare"],
        cwd=tmp_path,
        env={**os.environ},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # Driver and workers have made one copy, of what preparing needs.
    copies = [each.name for each in (tmp_path / "cache/instsel/models").iterdir() if each.is_dir()]
    assert len(copies) == 1 and copies[0].startswith("toy-") and copies[0].endswith("-tokenizer")

    config, graph = _graph(raw)
    written = graph.folder.read_json("config.json")["model"]
    assert (written["name"], written["revision"]) == (URI, config.model.revision)
    assert not graph.open_keys("prepare")
    Folder.at(URI).write("generation_config.json", b'{"do_sample": false}')
    assert list(_graph(raw)[1].open_keys("prepare")) == ["prepare"]


def test_what_hangs_on_a_model_in_a_bucket_is_stale_once_it_changes(raw: Any) -> None:
    config, graph = _graph(raw)
    assert _graph(raw)[1]["prepare"].fingerprint == graph["prepare"].fingerprint
    Folder.at(URI).write("generation_config.json", b'{"do_sample": false}')
    changed, after = _graph(raw)
    assert changed.model.revision != config.model.revision
    assert after["prepare"].fingerprint != graph["prepare"].fingerprint
    # What a command that began before gives its workers.
    (problem,) = check_study(config).problems
    assert problem == (
        f"model.name: {URI} holds another model than the one that this study is pinned to: its content is "
        f"{changed.model.revision}, not {config.model.revision}; put the files of that one back, or run the study "
        "again, without model.revision if it has one, which does what depends on the model anew"
    )


def test_weights_that_cannot_be_used_are_told_before_a_run(raw: Any) -> None:
    bucket = Folder.at(URI)
    weights = bucket.read("model.safetensors")
    assert not check_study(parse_study(raw, "test")).problems
    bucket.write("model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    (problem,) = check_study(parse_study(raw, "test")).problems
    assert f"model.safetensors in {URI} only point at the weights" in problem
    bucket.delete("model.safetensors")
    bucket.write("pytorch_model.bin", weights)
    (problem,) = check_study(parse_study(raw, "test")).problems
    assert problem.startswith(f"model.name: {URI} has its weights in pytorch_model.bin alone, a pickle")
    assert "put those there" in problem and "/cache/" not in problem


def test_a_command_of_the_user_gets_the_copy(raw: Any, tmp_path: Path) -> None:
    program = (
        "import json, os, sys\n"
        "item = {'target': 'sums', 'item': 'q', 'answer': ' '.join(sorted(os.listdir(sys.argv[1])))}\n"
        "item |= {'correct': os.path.isdir(sys.argv[1])}\n"
        "open(sys.argv[2], 'w').write(json.dumps(item) + chr(10))\n"
    )
    (tmp_path / "program.py").write_text(program)
    command = {"run": f"{sys.executable} {tmp_path}/program.py {{model}} {{out}}", "scores": ["sums"]}
    config = parse_study({**raw, "evaluation": {**raw["evaluation"], "command": command}}, "test")
    _run_command(config, None, Folder.at(tmp_path / "items"))
    (row,) = Folder.at(tmp_path / "items").read_table("sums.parquet").to_pylist()
    assert row["correct"] == 1 and {"config.json", "model.safetensors"} <= set(row["answer"].split())


def test_a_secret_in_the_name_of_a_model_is_refused(raw: Any) -> None:
    for part, key in (("model", "name"), ("embedding", "encoder")):
        with pytest.raises(InputError, match=rf"{part}\.{key}.* with a key or password"):
            parse_study({**raw, part: {**raw.get(part, {}), key: "s3://KEY:SECRET@studies/toy"}}, "test")
