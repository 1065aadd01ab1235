"""Clusters as a person writes them, and rates on them worked out by hand."""

from dataclasses import replace

import pytest
from typer.testing import CliRunner

from instsel.cli.app import app
from instsel.config.file import parse_study
from instsel.errors import InputError
from instsel.pipeline.features import features_probe
from instsel.pipeline.probes import training_probe
from instsel.planner.cluster import Cluster, TargetCluster, cost_a_second, on_cluster, parse_cluster, workers_on
from instsel.planner.rates import MeasuredRate, Rate, Rates
from instsel.study.estimates import Throughput

MEASURED = Throughput(10.0, 100.0, memory=10**9, processes=2, together=2, gpu_share=1.0, device="NVIDIA H100 80GB HBM3")


@pytest.mark.parametrize(
    ("text", "cluster"),
    [
        ("8xH100", Cluster(1, 8, "H100")),
        ("2x8xA100", Cluster(2, 8, "A100")),
        ("4xRTX 4090", Cluster(1, 4, "RTX 4090")),
        ("4xcpu", Cluster(4, 0, "cpu")),
        ("1xCPU", Cluster(1, 0, "cpu")),
    ],
)
def test_a_cluster_is_read(text, cluster):
    assert parse_cluster(text) == cluster


@pytest.mark.parametrize("text", ["H100", "8", "8x", "0xH100", "8xH100x2x", "2x4xcpu", "8 H100", "1x2x3xH100"])
def test_what_is_no_cluster_is_refused(text):
    with pytest.raises(InputError, match="8xH100, 2x8xH100"):
        parse_cluster(text)


@pytest.mark.parametrize(
    ("name", "device", "same"),
    [
        ("H100", "NVIDIA H100 80GB HBM3", True),
        ("h100", "NVIDIA H100 PCIe", True),
        ("A10", "NVIDIA A100-SXM4-80GB", False),
        ("A100-SXM4", "NVIDIA A100-SXM4-80GB", True),
        ("RTX4090", "NVIDIA GeForce RTX 4090", True),
        ("cpu", "cpu", True),
        ("H100", "cpu", False),
    ],
)
def test_a_device_is_known_by_whole_words_of_its_name(name, device, same):
    assert Cluster(1, 1, name).is_of(device) is same


def test_time_falls_as_processes_rise():
    rate = on_cluster(MEASURED, parse_cluster("2x8xH100"))
    assert (rate.processes, rate.together) == (16, 8)
    # 10 s to start, and 320,000 tokens by 16 processes of 100 tokens/s.
    assert rate.seconds(320_000) == 10 + 200
    # Four pieces of work keep four of them busy.
    assert rate.seconds(320_000, 4) == 10 + 800


def test_a_share_of_a_gpu_makes_more_or_fewer_processes():
    cluster = parse_cluster("8xH100")
    half, two = (on_cluster(Throughput(0, 1, 1, gpu_share=share, device="H100"), cluster) for share in (0.5, 2.0))
    assert (half.processes, two.processes) == (16, 4)
    assert on_cluster(MEASURED, cluster, asked=3).processes == 3


@pytest.mark.parametrize(("share", "asked"), [(4.0, None), (1.0, 3)])
def test_processes_that_do_not_fit_are_refused(share, asked):
    with pytest.raises(InputError, match="do not fit on 2 GPUs"):
        on_cluster(Throughput(0, 1, 1, gpu_share=share), parse_cluster("2xH100"), asked)


def test_machines_without_gpus_are_as_the_measured_one():
    rate = on_cluster(Throughput(5.0, 10.0, 1, processes=6, together=2, gpu_share=0), parse_cluster("4xcpu"))
    assert (rate.processes, rate.together, rate.seconds(800)) == (8, 2, 5 + 10)


def test_workers_are_one_a_gpu_or_as_measured():
    assert workers_on(parse_cluster("2x8xH100"), 1, None) == 16
    assert workers_on(parse_cluster("4xcpu"), 2, None) == 8
    assert workers_on(parse_cluster("2x8xH100"), 1, 5) == 5


def test_the_price_is_of_a_gpu_or_of_a_machine_without():
    assert cost_a_second(parse_cluster("2x8xH100"), 2.25) * 3600 == pytest.approx(36.0)
    assert cost_a_second(parse_cluster("4xcpu"), 0.5) * 3600 == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"price": 2.0}, "--price needs --cluster"),
        ({"rates": "r.json"}, "--rates needs --cluster"),
        ({"cluster": "8xH100", "price": 0.0}, "--price 0: give a number above 0"),
        ({"cluster": "H100"}, "write 8xH100"),
        ({"cluster": "8xH100", "rates": "r.json", "save": "s.json"}, "leave one of them out"),
    ],
)
def test_options_that_are_wrong_or_do_nothing_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        TargetCluster.from_options(**{"cluster": None, "rates": None, "price": None, "save": None, **options})


def test_a_worker_with_fewer_rows_of_a_step_than_the_measured_one_is_named(tiny_study):
    config = parse_study(tiny_study(resources={}), "test")
    rate = Throughput(0.0, 1.0, 1, together=1, device="NVIDIA H100", step_rows=4.0)
    target = TargetCluster(parse_cluster("4xH100"), Rates({}, 20.0))
    probes = [training_probe("warmup", config, config.warmup), features_probe(config)]
    rates = {probe.name: MeasuredRate(probe, rate, target.convert(probe, rate, config.resources)) for probe in probes}
    assert [rates[name].expected.processes for name in ("warmup", "features")] == [4, 4]
    lines = target.describe(["warmup", "features"], rates, 20.0)
    assert lines[-1].startswith("warmup: a worker there has 1 rows of a step, the measured one had 4: ")
    same = {"warmup": replace(rates["warmup"], measured=replace(rate, step_rows=1.0))}
    assert not [line for line in target.describe(["warmup"], same, 20.0) if "rows of a step" in line]


def test_a_step_ends_with_the_worker_that_has_most_of_its_rows(tiny_study):
    config = parse_study(tiny_study(resources={}, finetune={"batch_size": 4}), "test")
    probe = training_probe("finetune", config, config.finetune)
    target = TargetCluster(parse_cluster("3xH100"))
    # 4 rows on 3 workers take as long as 6 would.
    assert target.convert(probe, MEASURED, config.resources).speed == pytest.approx(100.0 * 4 / 6)
    unknown = replace(MEASURED, speed=None)
    assert target.convert(probe, unknown, config.resources).speed is None


def test_rates_of_another_device_are_refused_and_here_there_is_nothing_to_convert(tiny_study):
    config = parse_study(tiny_study(), "test")
    probe = features_probe(config)
    assert TargetCluster().convert(probe, MEASURED, config.resources) is MEASURED
    before = TargetCluster(parse_cluster("8xA100"), Rates({}, 20.0))
    with pytest.raises(InputError, match=r"rates of A100 are needed, the rates are of NVIDIA H100.*give --rates"):
        before.convert(probe, MEASURED, config.resources)


def test_a_study_is_planned_in_the_type_that_its_rates_were_measured_in(tiny_study):
    config = parse_study(tiny_study(model={"name": "m"}), "test")
    encoder = Rate({"encoder": {}}, MEASURED)
    model = Rate({"model": {"dtype": "bfloat16"}}, MEASURED)
    known = TargetCluster(parse_cluster("1xH100"), Rates({"embed": encoder, "features": model}, 20.0))
    assert known.with_dtype(config).model.dtype == "bfloat16"
    only_encoder = TargetCluster(parse_cluster("1xH100"), Rates({"embed": encoder}, 20.0))
    assert only_encoder.with_dtype(config).model.dtype == "auto"
    asked = parse_study(tiny_study(model={"name": "m", "dtype": "float32"}), "test")
    assert known.with_dtype(asked).model.dtype == "float32"


def test_the_command_refuses_a_cluster_that_it_cannot_read(tmp_path):
    result = CliRunner().invoke(app, ["plan", str(tmp_path / "study.yaml"), "--cluster", "many"])
    assert result.exit_code == 2
    assert "--cluster many: write 8xH100" in result.stderr
