"""No secret is in what a study leaves, and nothing of what it reads again is run: see docs/security.md."""

import json
import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from instsel.choice.reselect import SelectionRequest, reselect
from instsel.errors import InputError
from tests.conftest import SECRETS
from tests.object_store import KEYS

ROOT = Path(__file__).parents[1]


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


@pytest.fixture
def copied(finished_study: dict[str, Any], tmp_path: Path) -> Path:
    """A copy of the finished study's folder, to be tampered with."""
    unasked = shutil.ignore_patterns("selections")
    return Path(shutil.copytree(finished_study["out"], tmp_path / "copy", ignore=unasked))


def files_below(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def test_no_secret_of_the_environment_is_in_the_folder_of_a_study(finished_study: dict[str, Any]) -> None:
    out = Path(finished_study["out"])
    secrets = {**SECRETS, "AWS_SECRET_ACCESS_KEY": KEYS["AWS_SECRET_ACCESS_KEY"]}
    assert {name: os.environ[name] for name in secrets} == secrets, "they are not in the environment of the study"
    written = {path: path.read_bytes() for path in files_below(out)}
    assert len(written) > 50
    found = [(path, name) for path, data in written.items() for name in secrets if secrets[name].encode() in data]
    assert not found


def test_nothing_that_a_study_leaves_is_a_pickle(finished_study: dict[str, Any]) -> None:
    endings = {path.suffix for path in files_below(Path(finished_study["out"]))}
    known = {".json", ".jsonl", ".parquet", ".arrow", ".safetensors", ".md", ".html", ".log", ".lock", ""}
    assert endings <= known
    unnamed = {path.name for path in files_below(Path(finished_study["out"])) if not path.suffix}
    assert unnamed <= {".validate_storage_marker"}


def test_pickles_that_stand_where_ray_tune_would_write_them_are_removed_unread(
    finished_study: dict[str, Any], tmp_path: Path, ray_session: None
) -> None:
    from instsel.config.file import parse_study
    from instsel.console import Terminal
    from instsel.io.store import Folder
    from instsel.runtime.tune import TrialCounter, quiet_tune
    from instsel.search import trials as search

    ran, folder = tmp_path / "ran", tmp_path / "search/tune"
    folder.mkdir(parents=True)
    planted = ("tuner.pkl", "trainable.pkl", "searcher-state.pkl", "experiment_state-2026-01-01_00-00-00.json")
    for name in planted:
        (folder / name).write_bytes(pickle.dumps(Evil(ran)))
    keys = {"space": {"finetune.learning_rate": [1e-3]}, "trials": 1, "searcher": "random"}
    study = parse_study({**finished_study, "search": keys}, "test")
    terminal = Terminal()
    with terminal.bar("search", 1, "trials") as bar, quiet_tune(terminal):
        plan = search._TunePlan(Folder.at(tmp_path / "search"), _report_once, 1, 1, [], 0, TrialCounter(bar))
        made = search._tuner(study, plan)
        # Ray Tune has written its own in their place by now.
        assert not any(b"Evil" in path.read_bytes() for path in folder.iterdir() if path.is_file())
        (result,) = made.fit()
    assert result.error is None
    assert not ran.exists()


def _report_once(config: dict[str, Any]) -> None:
    from ray import tune

    tune.report({"objective": 1.0, "epoch": 1, "tokens": 0})


@pytest.mark.parametrize(
    ("stage", "wish"),
    [
        ("prepare", SelectionRequest("less", "3", attribution="fisher")),
        ("attribution/cosine", SelectionRequest("less", "3")),
        ("index", SelectionRequest("random", "3")),
    ],
)
def test_a_folder_whose_names_lead_out_of_it_is_refused(stage: str, wish: SelectionRequest, copied: Path) -> None:
    outside = "../../../secret"
    if stage == "index":
        index = pq.read_table(copied / "prepare/index.parquet")
        number = index.schema.get_field_index("shard")
        index = index.set_column(number, "shard", pa.array([outside] * len(index), pa.string()))
        pq.write_table(index, copied / "prepare/index.parquet")
    else:
        manifest = json.loads((copied / stage / "manifest.json").read_text())
        result = manifest["result"]["pool"] if stage == "prepare" else manifest["result"]
        assert result["shards"]
        result["shards"] = [outside]
        (copied / stage / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=f"names a shard '{outside}', which no study has"):
        reselect(str(copied), wish, print)
    assert not (copied / "selections").exists()


def test_a_folder_that_asks_for_another_selection_folder_is_refused(copied: Path) -> None:
    with pytest.raises(InputError, match="is not usable"):
        reselect(str(copied), SelectionRequest("random", "3", name="../../elsewhere"), print)


def test_a_row_that_is_explained_does_not_steer_the_terminal(
    copied: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from typer.testing import CliRunner

    from instsel.cli.app import app

    shard = next((copied / "prepare/pool").glob("*.parquet"))
    table = pq.read_table(shard).to_pylist()
    table[0]["messages"][0]["content"] = "\x1b]0;title\x07\x1b[2J\r[x](https://evil) <script>"
    table[0]["file"] = "[x](https://evil)\x1b[2J"
    pq.write_table(pa.Table.from_pylist(table, schema=pq.read_schema(shard)), shard)
    told = CliRunner().invoke(app, ["explain", str(copied), table[0]["id"]])
    assert told.exit_code == 0
    assert r"\x1b]0;title\x07\x1b[2J" in told.output
    assert not {"\x1b", "\x07", "\r"} & set(told.output)


def test_rays_token_is_on_and_nothing_here_turns_it_off(ray_session: None) -> None:
    from ray._private.authentication.authentication_utils import is_token_auth_enabled

    assert is_token_auth_enabled()
    sources = [path for part in ("instsel", "jobs", "cluster", "configs") for path in files_below(ROOT / part)]
    texts = {path: path.read_text(encoding="utf-8") for path in sources if path.suffix in {".py", ".sh", ".yaml", ""}}
    assert len(texts) > 100
    assert not [path for path, text in texts.items() if "disabled" in text and "RAY_AUTH_MODE" in text]


def test_no_code_here_reads_a_pickle_or_runs_text() -> None:
    wrong = ("import pickle", "torch.load(", "yaml.load(", "allow_pickle=True", " eval(", " exec(", "shell=True")
    texts = {path: path.read_text(encoding="utf-8") for path in (ROOT / "instsel").rglob("*.py")}
    assert not [(path, sign) for path, text in texts.items() for sign in wrong if sign in text]
