"""What is wrong with a DeepSpeed JSON, by DeepSpeed's own schema, key by key."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from instsel.training.deepspeed_schema import deepspeed_problems, why_rejected
from tests.studies import least_config
from tests.training.test_deepspeed import WITH_AUTO


@pytest.fixture
def look(tmp_path: Path) -> Callable[..., list[str]]:
    """List the problems of a DeepSpeed configuration, as lines without their key."""

    def make(config: Any, **parts: Any) -> list[str]:
        path = tmp_path / "ds.json"
        path.write_text(config if isinstance(config, str) else json.dumps(config))
        problems = deepspeed_problems(least_config(deepspeed={"config": str(path)}, **parts))
        assert {problem.key for problem in problems} <= {"deepspeed.config"}
        return [problem.message for problem in problems]

    return make


@pytest.mark.parametrize(
    "config",
    [
        WITH_AUTO,
        {"zero_optimization": {"stage": 2}},
        {"zero_optimization": {"stage": 3, "offload_param": {"device": "cpu", "pin_memory": True}}},
        {"_comment": "ours", "zero_optimization": {"stage": 1}, "steps_per_print": 10, "wall_clock_breakdown": True},
        {"tensor_parallel": {"autotp_size": 1}},
        {"bf16": {"enabled": True}, "zero_optimization": {"stage": 2}},
        # The number of workers is not known yet, so that these may be right.
        {"train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 2},
        {},
    ],
)
def test_configurations_that_deepspeed_takes_have_no_problem(config: Any, look: Callable[..., list[str]]) -> None:
    assert look(config) == []


@pytest.mark.parametrize(
    ("config", "messages"),
    [
        (
            {"zero_optimization": {"stage": 2, "overlap_com": True}},
            ["zero_optimization.overlap_com is no key of DeepSpeed; did you mean overlap_comm?"],
        ),
        # DeepSpeed passes over these without a word.
        (
            {"zero_optimisation": {"stage": 3}},
            ["zero_optimisation is no key of DeepSpeed; did you mean zero_optimization?"],
        ),
        ({"learning_rate": 1e-4}, ["learning_rate is no key of DeepSpeed; remove it"]),
        ({"tensor_parallel": {"tp_size": 2}}, ["tensor_parallel.tp_size is no key of DeepSpeed"]),
        ({"tensorboard": {"enabled": True, "folder": "x"}}, ["tensorboard.folder is no key of DeepSpeed"]),
        (
            {"zero_optimization": {"stage": 3, "offload_param": {"device": "gpu"}}},
            ["zero_optimization.offload_param.device is 'gpu': should be 'none', 'cpu' or 'nvme'"],
        ),
        (
            {"zero_optimization": {"stage": 2, "reduce_bucket_size": "big"}},
            ["zero_optimization.reduce_bucket_size is 'big': should be a valid integer"],
        ),
        ({"bf16": {"enabled": "false"}}, ['bf16.enabled is the text "false"; write false without quotes']),
        ({"wall_clock_breakdown": "False"}, ['wall_clock_breakdown is the text "False"; write false without quotes']),
        (
            {"zero_optimization": {"stage": 2, "overlap_comm": "true"}},
            ['zero_optimization.overlap_comm is the text "true"; write true without quotes'],
        ),
        (
            {"tensor_parallel": {"autotp_size": 2}},
            ["tensor_parallel.autotp_size is 2, but a model is divided by ZeRO 3 alone; remove tensor_parallel"],
        ),
        ({"sequence_parallel_size": 2}, ["sequence_parallel_size is 2, but rows are not divided; remove it"]),
        ({"zero_optimization": {"stage": 4}}, ["zero_optimization.stage is 4; expected 0, 1, 2 or 3"]),
        ({"bf16": True}, ["bf16 is True; expected an object"]),
        ({"train_batch_size": 64}, ["train_batch_size is 64, but the study file's batch_size makes it 8"]),
        (
            {"communication_data_type": "fp17"},
            ["DeepSpeed rejects it, at communication_data_type: Invalid communication"],
        ),
        ("{", ["is not valid JSON: Expecting property name"]),
        ("[1]", ["holds a list; expected a JSON object"]),
    ],
)
def test_what_deepspeed_does_not_take_is_told_by_key(
    config: Any, messages: list[str], look: Callable[..., list[str]]
) -> None:
    told = look(config)
    assert len(told) == len(messages)
    for line, message in zip(told, messages, strict=True):
        assert message in line


def test_all_that_is_wrong_is_told_at_once(look: Callable[..., list[str]]) -> None:
    config = {
        "zero_optimization": {"stage": 2, "stagee": 1, "overlap_comm": "false"},
        "compile": {"x": 1},
        "bogus": 1,
        "tensor_parallel": {"autotp_size": 4},
    }
    assert look(config) == [
        'zero_optimization.overlap_comm is the text "false"; write false without quotes',
        "tensor_parallel.autotp_size is 4, but a model is divided by ZeRO 3 alone; remove tensor_parallel",
        "zero_optimization.stagee is no key of DeepSpeed; did you mean stage?",
        "compile.x is no key of DeepSpeed",
        "bogus is no key of DeepSpeed; remove it",
    ]


def test_a_known_number_of_workers_is_counted_with(look: Callable[..., list[str]]) -> None:
    config = {"gradient_accumulation_steps": 3}
    assert look(config) == []
    (told,) = look(config, resources={"training_workers": 2})
    assert "gradient_accumulation_steps is 3, but the study file's batch_size" in told


def test_the_dtype_is_compared_where_the_study_has_one(look: Callable[..., list[str]]) -> None:
    config = {"bf16": {"enabled": True}, "zero_optimization": {"stage": 2}}
    (told,) = look(config, model={"name": "m", "dtype": "float32"})
    assert told == "bf16.enabled is True, but model.dtype is float32; make them agree"
    assert look(config, model={"name": "m", "dtype": "bfloat16"}) == []


def test_a_missing_file_is_told_and_no_file_is_fine() -> None:
    (problem,) = deepspeed_problems(least_config(deepspeed={"config": "none.json"}))
    assert str(problem) == "deepspeed.config: none.json cannot be read (No such file or directory); correct the path"
    assert deepspeed_problems(least_config()) == []


def test_an_error_without_words_is_told_by_the_line_that_raised_it() -> None:
    try:
        assert least_config().name == "other"
    except AssertionError as error:
        error.args = ()
        assert why_rejected(error) == 'AssertionError at `assert least_config().name == "other"`'
    assert why_rejected(ValueError("no\n  such")) == "no such"
    assert why_rejected(TypeError()) == "TypeError"
