"""Rates in a file: they come back as they were, and serve only what they were measured for."""

import json

import pytest

from instsel.errors import InputError
from instsel.planner.rates import Rate, Rates, read_rates, write_rates
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
