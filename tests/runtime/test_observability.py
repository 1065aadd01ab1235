"""What is counted reaches the Prometheus endpoint under the names that the dashboard has."""

import time
import urllib.request

import pytest
import ray

from instsel.runtime.observability import COUNTERS, GAUGES, Meter
from instsel.runtime.training_progress import TrainingLogger
from instsel.training.schedule import Step

SECONDS = 60


class Run:
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.logged: list[tuple[dict[str, float], int]] = []

    def log(self, values: dict[str, float], step: int) -> None:
        self.logged.append((values, step))


class Metered:
    """Keeps the steps it is shown."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def show_step(self, step: Step) -> None:
        self.steps.append(step)


def step(number: int, tokens: int) -> Step:
    return Step(number=number, of=9, rows=3, tokens=tokens, loss=1.5, learning_rate=0.1)


def test_steps_are_logged_in_their_order_with_their_speed() -> None:
    meter, run = Metered(), Run()
    logger = TrainingLogger(meter, run)  # type: ignore[arg-type]
    for moment, taken in ((10.0, step(1, 100)), (12.0, step(2, 200)), (15.0, step(2, 80))):
        logger.log_step(moment, taken)
    assert meter.steps == [step(1, 100), step(2, 200), step(2, 80)]
    usual = {"loss": 1.5, "learning_rate": 0.1}
    assert run.logged == [
        (usual, 1),
        ({**usual, "tokens_per_second": 100.0}, 2),
        ({**usual, "tokens_per_second": 80 / 3}, 2),
    ]


@ray.remote(num_cpus=0)
class _Counting:
    def count(self) -> None:
        meter = Meter("my-study", "finetune/bids")
        meter.count_item(["a", "b", "c"], {"tokens": 70, "rejected": 2}, 0.5)
        meter.count_item(["d"], {}, 0.25)
        meter.show_step(step(4, 30))


def test_the_endpoint_has_every_metric_with_study_and_stage(ray_session: None) -> None:
    counting = _Counting.remote()
    ray.get(counting.count.remote())
    (node,) = ray.nodes()
    address = f"http://127.0.0.1:{node['MetricsExportPort']}/metrics"
    expected = {
        "ray_instsel_rows_total": 7,
        "ray_instsel_tokens_total": 100,
        "ray_instsel_rows_rejected_total": 2,
        "ray_instsel_busy_seconds_total": 0.75,
        "ray_instsel_training_step": 4,
        "ray_instsel_training_steps": 9,
        "ray_instsel_training_loss": 1.5,
    }
    assert len(expected) == len(COUNTERS) + len(GAUGES)
    deadline, samples = time.monotonic() + SECONDS, dict[str, float]()
    while samples != expected and time.monotonic() < deadline:
        time.sleep(0.5)
        samples = _samples(address)
    assert samples == expected


def _samples(address: str) -> dict[str, float]:
    with urllib.request.urlopen(address, timeout=10) as reply:
        lines = reply.read().decode().splitlines()
    lines_of_study = [line for line in lines if 'study="my-study"' in line]
    assert all('stage="finetune"' in line for line in lines_of_study)
    return {line.partition("{")[0]: float(line.rpartition(" ")[2]) for line in lines_of_study}


def test_nothing_done_is_nothing_counted(ray_session: None) -> None:
    with pytest.MonkeyPatch.context() as patch:
        meter = Meter("s", "prepare")
        for counter in meter._counters.values():
            patch.setattr(counter, "inc", lambda amount: pytest.fail("counted"))
        meter.count()
