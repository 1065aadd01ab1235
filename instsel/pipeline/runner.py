"""A study from its file to its report: the stages that are not done, in order."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from instsel.config.study import StudyConfig
from instsel.console import Terminal, log_to
from instsel.io.store import Folder
from instsel.models.dtypes import dtype_of, with_dtype
from instsel.study.dtype import with_recorded_dtype
from instsel.study.folder import StageFolder, open_folder
from instsel.study.graph import ORDER, Graph, build_graph
from instsel.tracking import check_tracking

LOG = "instsel.log"
CONFIG = "config.json"


def run_study(
    study: StudyConfig,
    terminal: Terminal,
    until: str = ORDER[-1],
    then: Callable[[Graph], None] | None = None,
) -> Graph:
    """Run every stage through `until` that is not done yet.

    Args:
        study: the checked study file.
        terminal: where to tell what happens.
        until: name of the last stage, one of `ORDER`.
        then: called with the stages when they are done, while Ray and the log are still there.

    Returns:
        The stages, all done through `until`.

    Raises:
        InputError: the user's files or settings are wrong.
        StudyError: a stage failed.
    """
    check_tracking(study.tracking)
    folder = open_folder(study.out, study.name)
    with _log_file(folder, study.name) as log_file, log_to(log_file):
        asked, study = study, with_recorded_dtype(study, folder)
        # Where the type of the model is not settled, that of this machine stands for it: what is wrong with the user's
        # files is told at once.
        graph = build_graph(study, folder)
        waiting = [stage for stage in graph.until(until) if not stage.done()]
        if not waiting and then is None:
            folder.write_json(CONFIG, with_dtype(study, dtype_of(study.model)).model_dump())
            terminal.say(f"study {study.name}: nothing to do, every stage is done")
            return graph
        # Imported here: a finished study is told without the seconds that Ray and torch take to load.
        from instsel.console import capture_native_stderr
        from instsel.runtime.autoscaling import autoscaled
        from instsel.runtime.errors import clear_errors
        from instsel.runtime.session import ray_session

        # While Ray's own processes start, which takes as long.
        loading = threading.Thread(target=import_module, args=("instsel.pipeline.run_stages",), daemon=True)
        loading.start()
        with (
            capture_native_stderr(log_file),
            clear_errors(),
            ray_session(study.resources),
            autoscaled(study.resources, terminal),
        ):
            loading.join()
            from instsel.pipeline.run_stages import run_stages
            from instsel.runtime.devices import settle_dtype

            study = settle_dtype(asked, folder, terminal)
            graph = build_graph(study, folder)
            waiting = [stage for stage in graph.until(until) if not stage.done()]
            # Also where nothing is left to do: what is asked of the folder later goes by it.
            folder.write_json(CONFIG, study.model_dump())
            if waiting:
                run_stages(study, graph, waiting, terminal, folder)
            if then is not None:
                then(graph)
        _tell_what_was_done_again(waiting, terminal)
    return graph


def _tell_what_was_done_again(stages: list[StageFolder], terminal: Terminal) -> None:
    rows = {stage.name: stage.manifest()["cost"]["rows_reprocessed"] for stage in stages}
    again = ", ".join(f"{name} {count}" for name, count in rows.items() if count)
    if again:
        terminal.say(f"rows whose work was done again after processes or machines were lost: {again}")


@contextmanager
def _log_file(folder: Folder, name: str) -> Iterator[Path]:
    """The log on this machine; for a folder elsewhere NAME.log, and what this run wrote is added to the log there."""
    if folder.is_local:
        yield Path(folder.path, LOG)
        return
    here = Path(f"{name}.log")
    before = here.stat().st_size if here.exists() else 0
    try:
        yield here
    finally:
        there = folder.read(LOG) if folder.exists(LOG) else b""
        folder.write(LOG, there + here.read_bytes()[before:])
