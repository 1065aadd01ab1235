from functools import partial
from pathlib import Path

import pytest

from instsel.errors import StudyError
from instsel.progress import Terminal
from instsel.stages.session import Allotment
from instsel.stages.trials import run_each, trial_allotment
from instsel.storage import Folder


def _write(name: str, folder: Path) -> None:
    with (folder / name).open("a") as stream:
        stream.write("once\n")
    if name.startswith("bad"):
        raise RuntimeError(f"{name} does not work")


def test_every_name_is_called_once_and_ray_tunes_files_go(ray_session, tmp_path):
    run_each("runs", ["a", "b", "c"], partial(_write, folder=tmp_path), Folder.at(tmp_path / "tune"), 2, 0, Terminal())
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys("abc", "once\n")


def test_failed_run_is_tried_again_named_and_does_not_stop_the_others(ray_session, tmp_path, capsys):
    with pytest.raises(
        StudyError, match=r"runs: 1 of 2 runs failed \(bad\): .*bad does not work.*run the same command"
    ):
        run_each(
            "runs", ["bad", "good"], partial(_write, folder=tmp_path), Folder.at(tmp_path / "tune"), 1, 1, Terminal()
        )
    assert (tmp_path / "bad").read_text() == "once\n" * 2
    assert (tmp_path / "good").read_text() == "once\n"
    assert "Traceback" not in capsys.readouterr().out


def test_nothing_is_started_without_names(tmp_path):
    run_each("runs", [], partial(_write, folder=tmp_path), Folder.at(tmp_path / "tune"), 1, 0, Terminal())
    assert not any(tmp_path.iterdir())


@pytest.fixture
def cluster(monkeypatch):
    import ray

    def make(**resources):
        monkeypatch.setattr(ray, "cluster_resources", lambda: resources)

    return make


def _allotment(workers, gpus):
    return Allotment(1, gpus, 1, 1, workers, gpus, 0.5, 1)


def test_on_gpus_a_run_has_one_and_as_many_run_as_there_are(cluster):
    cluster(GPU=8.0, CPU=32.0)
    each, at_once = trial_allotment(_allotment(8, 1), None)
    assert (each.workers, at_once) == (1, 8)
    each, at_once = trial_allotment(_allotment(8, 1), 4)
    assert (each.workers, at_once) == (4, 2)


def test_without_gpus_half_of_the_cpus_feed_the_runs(cluster):
    cluster(CPU=2.0)
    each, at_once = trial_allotment(_allotment(2, 0), None)
    assert (each.workers, at_once) == (1, 2)
    each, at_once = trial_allotment(_allotment(2, 0), 2)
    assert (each.workers, at_once) == (2, 1)


def test_more_workers_than_there_is_room_for_are_refused(cluster):
    cluster(GPU=2.0, CPU=8.0)
    with pytest.raises(StudyError, match="trial_workers is 3, but the cluster has room for 2"):
        trial_allotment(_allotment(2, 1), 3)
