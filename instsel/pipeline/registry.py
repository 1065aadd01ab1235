"""The stages that there are: every class of this package that is a `Stage`."""

from functools import lru_cache
from importlib import import_module
from inspect import isabstract
from pkgutil import iter_modules
from typing import Any

import instsel.pipeline
from instsel.config.study import StudyConfig
from instsel.io.store import Folder
from instsel.study.graph import StageGraph
from instsel.study.stage import Stage


@lru_cache(maxsize=1)
def load_stages() -> tuple[Stage[Any], ...]:
    """Return every stage, in the order in which they run. Loads neither Ray nor torch.

    A module of `instsel.pipeline` that defines a subclass of `Stage` with a name brings one.
    """
    stages: dict[str, Stage[Any]] = {}
    for module in iter_modules(instsel.pipeline.__path__, "instsel.pipeline."):
        for value in vars(import_module(module.name)).values():
            if isinstance(value, type) and issubclass(value, Stage) and not isabstract(value) and "name" in vars(value):
                stages[value.name] = value()
    return tuple(sorted(stages.values(), key=lambda stage: stage.position))


def stage_names() -> list[str]:
    """Return the names of the stages, in the order in which they run."""
    return [stage.name for stage in load_stages()]


def build_graph(
    config: StudyConfig, folder: Folder, trial_folder: Folder | None = None, *, redo: bool = False
) -> StageGraph:
    """Return the stages of a study, see `StageGraph`.

    Raises:
        InputError: two runs of the study would have one name.
    """
    return StageGraph(config, folder, load_stages(), trial_folder, redo=redo)
