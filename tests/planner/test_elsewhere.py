"""A study planned for a cluster that is not there, from rates that were measured here."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from instsel.cli.app import app
from instsel.config.file import parse_study
from instsel.console import Terminal
from instsel.errors import InputError
from instsel.planner.cluster import parse_cluster
from instsel.planner.elsewhere import TargetCluster
from instsel.planner.facts import Facts, StagePlan, Throughput
from instsel.planner.rates import Rates, read_rates
from instsel.planner.run import plan_study


def planned(raw, **options):
    """The plan by stage, and what a person saw."""
    shown = io.StringIO()
    asked = {"cluster": None, "rates": None, "price": None, "save": None, **options}
    terminal = Terminal(Console(file=shown, soft_wrap=True))
    plan = plan_study(parse_study(raw, "test"), terminal, elsewhere=TargetCluster.of(**asked))
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
    monkeypatch.setattr("instsel.planner.stopwatch._processes", None)
    stages, shown = planned(raw, cluster="3xcpu", rates=path, price=2.0)
    training = rates.stages["finetune"].pace
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
def test_rates_measured_for_a_cluster_have_its_share_of_a_step(saved):
    # Steps of 4 rows on twice 2 workers; 2 of them were timed.
    assert read_rates(saved[1]).stages["finetune"].pace.step_rows == 1.0


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


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"price": 2.0}, "--price needs --cluster"),
        ({"rates": "r.json"}, "--rates needs --cluster"),
        ({"cluster": "8xH100", "price": 0.0}, "--price 0: give a number above 0"),
        ({"cluster": "H100"}, "write 8xH100"),
        ({"cluster": "8xH100", "rates": "r.json", "save": "s.json"}, "leave one of them out"),
    ],
)
def test_options_that_are_wrong_or_do_nothing_are_refused(options, told):
    with pytest.raises(InputError, match=told):
        TargetCluster.of(**{"cluster": None, "rates": None, "price": None, "save": None, **options})


def test_a_worker_with_fewer_rows_of_a_step_than_the_measured_one_is_told(tiny_study):
    study = parse_study(tiny_study(resources={}), "test")
    pace = Throughput(0.0, 1.0, 1, together=1, device="NVIDIA H100", step_rows=4.0)
    facts = Facts([], [], [], {}, 1, paces={"warmup": pace, "features": pace})
    elsewhere = TargetCluster(parse_cluster("4xH100"), Rates({}, 0, 20.0))
    there = elsewhere.moved(study, facts)
    assert [there.paces[name].processes for name in ("warmup", "features")] == [4, 4]
    told = elsewhere.told(study, there, [StagePlan("warmup"), StagePlan("features")])
    assert told[-1].startswith("warmup: a worker there has 1 rows of a step, the measured one had 4: ")
    same = replace(there, paces={"warmup": replace(there.paces["warmup"], step_rows=1.0)})
    assert not [line for line in elsewhere.told(study, same, [StagePlan("warmup")]) if "rows of a step" in line]


def test_the_command_refuses_a_cluster_that_it_cannot_read(tmp_path):
    result = CliRunner().invoke(app, ["plan", str(tmp_path / "study.yaml"), "--cluster", "many"])
    assert result.exit_code == 2
    assert "--cluster many: write 8xH100" in result.stderr
