"""Errors of workers, as the command shows them: with the type and the message of the cause."""

import logging
import os
from typing import Any

import pytest
import ray
import ray.data

from instsel.errors import InputError, StudyError
from instsel.runtime.errors import clear_errors

pytestmark = pytest.mark.usefixtures("ray_session")


@ray.remote(max_retries=0)
def fail(error: Exception) -> None:
    raise error


@ray.remote(max_retries=0)
def fail_within(error: Exception) -> None:
    ray.get(fail.remote(error))


@ray.remote(max_retries=0)
def die() -> None:
    os._exit(1)


@ray.remote
class Worker:
    def fail(self, error: Exception) -> None:
        raise error

    def die(self) -> None:
        os._exit(1)


def _behind_another(error: Exception) -> None:
    try:
        ray.get(fail.remote(error))
    except Exception as cause:
        raise RuntimeError("while working") from cause


def _in_ray_data(error: Exception) -> None:
    def fail_row(row: dict[str, Any]) -> dict[str, Any]:
        raise error

    list(ray.data.range(2).map(fail_row).iter_rows())


FAILURES: dict[str, Any] = {
    "here": lambda error: (_ for _ in ()).throw(error).__next__(),
    "in a task": lambda error: ray.get(fail.remote(error)),
    "in a task of a task": lambda error: ray.get(fail_within.remote(error)),
    "behind another error": _behind_another,
    "in an actor": lambda error: ray.get(Worker.remote().fail.remote(error)),
    "in Ray Data": _in_ray_data,
}


@pytest.mark.parametrize("where", FAILURES)
@pytest.mark.parametrize("kind", [InputError, StudyError])
def test_an_error_of_instsel_comes_back_unchanged(kind: type[Exception], where: str) -> None:
    with pytest.raises(kind) as error, clear_errors():
        FAILURES[where](kind("pool.0.path: correct it"))
    assert type(error.value) is kind
    assert str(error.value) == "pool.0.path: correct it"


@pytest.mark.parametrize("where", [where for where in FAILURES if where != "here"])
def test_any_other_error_of_a_worker_is_a_failed_study(where: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "instsel"), pytest.raises(StudyError) as error, clear_errors():
        FAILURES[where](ValueError("the matrix is odd"))
    assert str(error.value) == "a worker failed: ValueError: the matrix is odd; the log file has the details"
    assert "Traceback" in caplog.text


@pytest.mark.parametrize("death", [lambda: die.remote(), lambda: Worker.remote().die.remote()], ids=["task", "actor"])
def test_a_worker_that_dies_is_a_failed_study(death: Any) -> None:
    with pytest.raises(StudyError, match="^a worker failed: "), clear_errors():
        ray.get(death())


def test_bug_a_lost_worker_is_told_with_how_to_resume() -> None:
    with pytest.raises(StudyError, match="run the same command again to resume; the log"), clear_errors():
        ray.get(Worker.remote().die.remote())


def test_bug_a_process_that_was_lost_under_ray_data_is_told() -> None:
    gone: Any = Worker.remote()
    ray.kill(gone)

    def ask(row: dict[str, Any]) -> dict[str, Any]:
        ray.get(gone.die.remote())
        return row

    with pytest.raises(StudyError, match="^a worker failed: (?!SystemEx).*run the same command again"), clear_errors():
        list(ray.data.range(1).map(ask).iter_rows())


@pytest.mark.parametrize("kind", [InputError, StudyError, ValueError])
def test_a_training_run_raises_the_failure_of_its_worker(kind: type[Exception]) -> None:
    class WorkerGroupError(ray.exceptions.RayError):
        def __init__(self, worker_failures: dict[int, Exception]) -> None:
            super().__init__("workers failed")
            self.worker_failures = worker_failures

    expected = StudyError if kind is ValueError else kind
    with pytest.raises(expected, match="the loss is infinite"), clear_errors():
        raise WorkerGroupError({1: kind("the loss is infinite")})


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_an_error_of_the_driver_itself_stays_what_it_is(kind: type[BaseException]) -> None:
    with pytest.raises(kind), clear_errors():
        raise kind("a fault in the program")
