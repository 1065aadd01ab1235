import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from instsel.training.schedule import TrainSettings


@pytest.fixture(scope="session")
def worker() -> ModuleType:
    """The file worker.py beside this one."""
    spec = importlib.util.spec_from_file_location("training_worker", Path(__file__).with_name("worker.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def settings() -> Callable[..., TrainSettings]:
    """Settings of two epochs; keywords replace some, `stage` sets the ZeRO stage."""

    def make(stage: int = 2, **changes: Any) -> TrainSettings:
        values = {
            "epochs": 2,
            "batch_size": 4,
            "micro_batch_size": 1,
            "learning_rate": 1e-2,
            "warmup_ratio": 0.3,
            "weight_decay": 0.1,
            "deepspeed": {"zero_optimization": {"stage": stage}},
        }
        return TrainSettings(**{**values, **changes})

    return make
