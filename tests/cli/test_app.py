"""The command: exit statuses, last lines, and that a finished study is told at once."""

import json
import shutil
import subprocess
import sys

import pytest
import yaml
from typer.testing import CliRunner

from instsel import __version__
from instsel.cli.app import app
from instsel.io.store import Folder


@pytest.fixture
def invoke():
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def test_a_missing_study_file_exits_with_2_and_says_so(invoke):
    result = invoke("run", "nowhere.yaml")
    assert result.exit_code == 2
    assert "study file nowhere.yaml does not exist" in result.stderr.splitlines()[-1]


def test_a_wrong_key_exits_with_2_and_names_it(invoke, tmp_path, tiny_study):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**tiny_study(), "budgett": 3}))
    result = invoke("run", str(path))
    assert result.exit_code == 2
    assert "budgett: unknown key" in result.stderr


def test_the_version_is_shown(invoke):
    result = invoke("--version")
    assert (result.exit_code, result.stdout) == (0, f"instsel {__version__}\n")


def test_an_unknown_stage_exits_with_2(invoke, tmp_path, tiny_study):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(tiny_study()))
    result = invoke("run", str(path), "--until", "sekect")
    assert result.exit_code == 2
    assert "one of benchmarks, prepare, answers, embed, hidden_states, likelihood, categorize, warmup" in result.stderr
    assert result.stderr.endswith("; did you mean select?\n")


def test_a_missing_pool_file_is_told_before_ray_starts(invoke, tmp_path, tiny_study):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(tiny_study()))
    result = invoke("run", str(path), "--set", "pool.0.path=nowhere.jsonl")
    assert result.exit_code == 2
    assert "pool.0.path" in result.stderr
    assert "nowhere.jsonl does not exist" in result.stderr


def test_a_folder_of_another_study_is_left_alone(invoke, tmp_path, tiny_study):
    path = tmp_path / "study.yaml"
    raw = tiny_study()
    path.write_text(yaml.safe_dump(raw))
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "study.json").write_text('{"name": "other", "format": 2}')
    result = invoke("run", str(path))
    assert result.exit_code == 2
    assert "holds the study 'other', not 'tiny'" in result.stderr
    assert [item.name for item in (tmp_path / "study").iterdir()] == ["study.json"]


def test_a_finished_study_exits_with_0_and_shows_its_report(invoke, tmp_path, finished_study):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(finished_study))
    result = invoke("run", str(path))
    assert result.exit_code == 0, result.output
    assert "nothing to do" in result.stdout
    assert "Best: " in result.stdout
    assert "held-out loss, nats" in result.stdout
    assert result.stdout.splitlines()[-1].endswith("report/report.html")


def test_telling_that_nothing_is_to_do_loads_neither_ray_nor_torch(tmp_path, finished_study):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(finished_study))
    program = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from instsel.cli.app import app\n"
        f"result = CliRunner().invoke(app, ['run', {str(path)!r}])\n"
        "assert result.exit_code == 0, result.output\n"
        "print([name for name in ('ray', 'torch', 'transformers') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_a_report_is_built_again_and_its_results_shown(invoke, finished_study):
    result = invoke("report", finished_study["out"])
    assert result.exit_code == 0
    assert "Best: " in result.output
    assert result.output.splitlines()[-1].endswith("report/report.html")
    told = json.loads(invoke("report", finished_study["out"], "--json").output)
    assert told["studies"][0]["missing"] == [] and told["studies"][0]["warnings"] == []
    assert told["studies"][0]["losses"]["base"]


def test_a_report_of_a_folder_that_is_no_study_exits_with_2(invoke, tmp_path):
    result = invoke("report", str(tmp_path))
    assert result.exit_code == 2
    assert "no study folder" in result.output


def test_a_selection_is_made_anew_and_told(invoke, finished_study, tmp_path):
    out = shutil.copytree(finished_study["out"], tmp_path / "copy")
    result = invoke("select", str(out), "--method", "less", "--budget", "4", "--targets", "sums")
    assert result.exit_code == 0, result.stderr
    assert "**less-4-sums**: 4 rows" in result.stdout
    assert "rows by the target they help most (cosine): " in result.stdout


def test_a_selection_of_an_unknown_method_exits_with_2(invoke, finished_study):
    result = invoke("select", finished_study["out"], "--method", "best", "--budget", "4")
    assert result.exit_code == 2
    assert "selection.methods.0" in result.stderr


def test_a_row_is_explained(invoke, finished_study):
    row = Folder.at(finished_study["out"]).read_table("prepare/index.parquet", ["id"])["id"][0].as_py()
    result = invoke("explain", finished_study["out"], row)
    assert result.exit_code == 0, result.stderr
    assert f"**{row}**" in result.stdout
    assert "Helps most" in result.stdout
    result = invoke("explain", finished_study["out"], "nobody")
    assert result.exit_code == 2
    assert "no pool row 'nobody'" in result.stderr
