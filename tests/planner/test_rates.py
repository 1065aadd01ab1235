"""Rates in a file: they come back as they were, and serve only what they were measured for."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from instsel.config.file import parse_study
from instsel.console import Terminal
from instsel.errors import InputError
from instsel.planner.cluster import TargetCluster
from instsel.planner.rates import Rate, Rates, read_rates, write_rates
from instsel.planner.run import plan_study
from instsel.study.estimates import Throughput

THROUGHPUT = Throughput(
    3.5, 120.25, memory=5, gpu_memory=7, gpu_total=9, timed=4, device="NVIDIA H100 80GB HBM3", step_rows=2.0
)
DEPENDENCIES = {"model": {"identity": {"hub": "m"}, "dtype": "bfloat16"}, "token_budget": 4096}
RATES = Rates({"features": Rate(DEPENDENCIES, THROUGHPUT), "evaluate": Rate({}, Throughput(1.0, None, 2))}, 41.5)


def test_rates_come_back_as_they_were(tmp_path):
    write_rates(str(tmp_path / "rates.json"), RATES)
    assert read_rates(str(tmp_path / "rates.json")) == RATES


def test_a_rate_is_given_for_what_it_was_measured_for():
    assert RATES.throughput("features", DEPENDENCIES) == THROUGHPUT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"token_budget": 8192}, "token_budget 4096, here 8192"),
        ({"model": {"identity": {"hub": "other"}, "dtype": "bfloat16"}}, "another model"),
        ({"model": {"identity": {"hub": "m"}, "dtype": "float32"}}, "another model"),
        ({"dim": 64}, "dim None, here 64"),
    ],
)
def test_a_rate_of_something_else_is_refused(change, message):
    with pytest.raises(InputError, match=f"features was measured for something else: {message}; measure it again"):
        RATES.throughput("features", {**DEPENDENCIES, **change})


def test_a_stage_that_was_not_measured_is_named():
    with pytest.raises(InputError, match="--rates: warmup was not measured"):
        RATES.throughput("warmup", {})


@pytest.mark.parametrize("content", [None, "no JSON", "{}", json.dumps({"stages": [], "mean_tokens": 1})])
def test_a_file_that_is_none_is_refused(content, tmp_path):
    path = tmp_path / "rates.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=f"--rates {path} .*--save-rates"):
        read_rates(str(path))


def planned(raw, **options):
    """The plan by stage, and what a person saw."""
    shown = io.StringIO()
    asked = {"cluster": None, "rates": None, "price": None, "save": None, **options}
    terminal = Terminal(Console(file=shown, soft_wrap=True))
    plan = plan_study(parse_study(raw, "test"), terminal, target=TargetCluster.from_options(**asked))
    return {stage.name: stage for stage in plan.stages}, shown.getvalue()


@pytest.fixture(scope="module")
def saved(tmp_path_factory, study_writer, ray_session):
    """A study, a file with its rates, measured here for two machines like this one, and the plan for those."""
    folder = tmp_path_factory.mktemp("elsewhere")
    # Two workers a run, as this machine takes by itself.
    resources = {"trial_workers": 1, "actors": 1}
    raw = study_writer(folder, selection={"budget": 0.25, "methods": ["random"]}, resources=resources)
    path = str(folder / "rates.json")
    stages, _ = planned(raw, cluster="2xcpu", save=path)
    return raw, path, stages


@pytest.mark.long
def test_rates_that_were_saved_make_the_plan_of_a_larger_cluster(saved, monkeypatch):
    raw, path, smaller = saved
    rates = read_rates(path)
    assert sorted(rates.stages) == ["evaluate", "finetune"]
    monkeypatch.setattr("instsel.planner.profile._started", None)
    stages, shown = planned(raw, cluster="3xcpu", rates=path, price=2.0)
    training = rates.stages["finetune"].throughput
    tokens, workers = stages["finetune"].tokens, 3 * training.together
    # Steps of 4 rows on 6 workers take as long as those of 6 rows would.
    expected = training.start + tokens / (training.speed * workers * 4 / 6)
    assert workers == 6
    assert stages["finetune"].seconds == pytest.approx(expected)
    assert (stages["finetune"].memory, stages["finetune"].together) == (smaller["finetune"].memory, 2)
    assert stages["evaluate"].batches == smaller["evaluate"].batches
    assert "finetune, evaluate: rates measured on cpu, before" in shown
    assert "prepare, select: as the CPUs of this machine do them" in shown
    assert "assumed, not measured: every process there is as fast as the measured one" in shown
    cost = f"{stages['finetune'].seconds * 3 * 2.0 / 3600:,.2f}"
    assert f"| {cost} |" in next(line for line in shown.splitlines() if line.startswith("| finetune"))


@pytest.mark.long
def test_rates_measured_for_a_cluster_have_its_part_of_a_step(saved):
    # Steps of 4 rows on twice 2 workers; 2 of them were timed.
    assert read_rates(saved[1]).stages["finetune"].throughput.step_rows == 1.0


@pytest.mark.long
def test_rates_of_another_study_or_device_are_refused(saved):
    raw, path, _ = saved
    with pytest.raises(InputError, match="finetune was measured for something else: batch_size 4, here 8"):
        planned({**raw, "finetune": {**raw["finetune"], "batch_size": 8}}, cluster="3xcpu", rates=path)
    with pytest.raises(InputError, match=r"rates of H100 are needed, the rates are of cpu; .*--save-rates"):
        planned(raw, cluster="8xH100", rates=path)
    assert not Path(raw["out"]).exists()


@pytest.mark.long
def test_a_device_that_is_not_here_has_to_be_measured_elsewhere(saved):
    raw, _, _ = saved
    with pytest.raises(InputError, match=r"rates of H100 are needed, here there is no GPU; .*give --rates rates.json"):
        planned(raw, cluster="8xH100")


def test_a_finished_study_has_no_rates_to_save(finished_study, tmp_path):
    with pytest.raises(InputError, match="nothing to measure"):
        planned(finished_study, save=str(tmp_path / "rates.json"))
    assert not (tmp_path / "rates.json").exists()
