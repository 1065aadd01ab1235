"""Models and datasets of the hub are pinned to a commit."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from instsel.config.study import StudyConfig
from instsel.console import Terminal
from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.study.revisions import REVISIONS, Repository, find_commit, with_pinned_revisions

FIRST, SECOND, OTHER = ("a" * 40, "b" * 40, "c" * 40)


class Hub:
    """A hub that answers what the commit of a revision is."""

    def __init__(self) -> None:
        self.commits: dict[str, str] = {}
        self.asked: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.asked.append(self.path)
                commit = hub.commits.get(self.path.removeprefix("/api/").partition("?")[0])
                kind, name = self.path.split("/")[2], "/".join(self.path.split("/")[3:5])
                self.send_response(404 if commit is None else 200)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps({"id": name, "sha": commit, "kind": kind}).encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub()
    thread = threading.Thread(target=hub.server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.commits = {
        "models/owner/model/revision/main": FIRST,
        "datasets/owner/rows/revision/v1": OTHER,
        "datasets/owner/rows/revision/main": FIRST,
    }
    yield hub
    hub.server.shutdown()
    hub.server.server_close()
    thread.join()


@pytest.fixture
def study(tiny_study: Callable[..., dict[str, Any]]) -> StudyConfig:
    raw = tiny_study()
    raw["model"] = {**raw["model"], "name": "owner/model"}
    raw["pool"] = [*raw["pool"], {"path": "hf:owner/rows", "revision": "v1", "source": "hub"}]
    first = next(iter(raw["targets"]))
    raw["targets"][first] = {"validation": "hf:owner/rows", "heldout": raw["targets"][first]["heldout"]}
    return StudyConfig.model_validate(raw)


def test_fault_09_a_branch_of_the_hub_is_pinned_to_its_commit(
    hub: Hub, study: StudyConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Folder.at(tmp_path / "out").create()
    pinned = with_pinned_revisions(study, folder, Terminal())
    target = next(iter(pinned.targets.values()))
    assert pinned.model.revision == FIRST
    assert [source.revision for source in pinned.pool] == [None] * (len(pinned.pool) - 1) + [OTHER]
    assert (target.of_file("revision", "validation"), target.of_file("revision", "heldout")) == (FIRST, None)
    assert StudyConfig.model_validate(pinned.model_dump(exclude_unset=True)) == pinned
    said = " ".join(capsys.readouterr().out.split())
    assert f"model owner/model main of the hub is pinned to commit {FIRST}" in said

    # The branch moves, and the study stays; another study, or another revision in the study file, takes what is now.
    hub.commits["models/owner/model/revision/main"] = SECOND
    asked = len(hub.asked)
    assert with_pinned_revisions(study, folder, Terminal()) == pinned
    assert with_pinned_revisions(pinned, folder, Terminal()) == pinned
    assert len(hub.asked) == asked
    assert with_pinned_revisions(study, Folder.at(tmp_path / "other")).model.revision == SECOND
    assert not (tmp_path / "other" / REVISIONS).exists()


def test_fault_09_without_a_network_the_commit_is_that_of_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = Repository("model", "owner/model", "main")
    assert find_commit(repository) is None
    (tmp_path / "models--owner--model" / "refs").mkdir(parents=True)
    (tmp_path / "models--owner--model" / "refs" / "main").write_text(FIRST)
    assert find_commit(repository) == FIRST
    assert find_commit(repository._replace(revision=SECOND)) == SECOND


@pytest.mark.parametrize("noted", [[], {"model owner/model main": "refs/pr/1"}, {"model owner/model main": None}])
def test_what_is_noted_has_to_be_commits(noted: Any, study: StudyConfig, tmp_path: Path) -> None:
    (tmp_path / REVISIONS).write_text(json.dumps(noted))
    with pytest.raises(
        InputError, match=r"revisions\.json has to name a commit, 40 digits, for each model and dataset"
    ):
        with_pinned_revisions(study, Folder.at(tmp_path))


def test_a_study_without_the_hub_is_left_as_it_is(tiny_study: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    study = StudyConfig.model_validate(tiny_study())
    assert with_pinned_revisions(study, Folder.at(tmp_path), Terminal()) is study
    assert not (tmp_path / REVISIONS).exists()
