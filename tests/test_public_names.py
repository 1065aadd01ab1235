"""The public names of the package load what is behind them when they are first used."""

import subprocess
import sys

import pytest

import instsel


@pytest.mark.process
def test_the_package_loads_nothing_and_a_study_file_neither_torch_nor_ray_nor_sklearn():
    code = (
        "import sys, instsel\n"
        "assert [name for name in sys.modules if name.startswith('instsel')] == ['instsel']\n"
        "assert not {'numpy', 'pandas', 'torch', 'ray', 'pydantic'} & set(sys.modules)\n"
        "instsel.load_config, instsel.select, instsel.Selection, instsel.open_study, instsel.run\n"
        "assert not {'torch', 'ray', 'sklearn', 'transformers', 'pandas'} & set(sys.modules), sys.modules.keys()\n"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr


def test_every_public_name_is_there_and_listed():
    assert set(instsel.__all__) <= set(dir(instsel))
    assert all(getattr(instsel, name) for name in instsel.__all__)
    assert callable(instsel.attribute) and callable(instsel.run)
    with pytest.raises(AttributeError, match="module 'instsel' has no attribute 'chose'"):
        _ = instsel.chose


def test_a_study_file_is_loaded_with_overrides(tmp_path):
    (tmp_path / "study.yaml").write_text(
        "name: s\nout: runs/s\nmodel: {name: m}\npool: [{path: p.jsonl}]\ntargets: {t: {validation: v.jsonl}}\n"
        "selection: {budget: 0.1, methods: [random]}\n"
    )
    config = instsel.load_config(tmp_path / "study.yaml", ["selection.budget=5"])
    assert config.selection.budget == 5


def test_a_run_until_a_stage_that_is_not_there_is_rejected(tmp_path):
    from instsel.errors import InputError

    with pytest.raises(InputError, match="until is 'selct'; the stages are benchmarks, prepare, "):
        instsel.run(tmp_path / "study.yaml", until="selct")


@pytest.mark.ray
def test_a_finished_study_runs_to_its_end_at_once_and_is_opened(finished_study):
    from instsel.config.file import parse_study

    study = instsel.run(parse_study(finished_study, "test"), overrides=["resources.actors=2"])
    assert study.name == finished_study["name"] and study.selections == ["random", "bids"]
    assert instsel.run(parse_study(finished_study, "test"), until="select").runs == study.runs
