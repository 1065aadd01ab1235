"""Clusters as a person writes them, and rates on them worked out by hand."""

import pytest

from instsel.errors import InputError
from instsel.planner.cluster import Cluster, cost_a_second, on_cluster, parse_cluster, workers_on
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
