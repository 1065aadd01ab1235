"""instsel: choose the instruction examples that are worth training on, and train on them.

The names below load what is behind them when they are first used, so that `import instsel` is instant.
"""

import os
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from instsel.api.study import Study, open_study
    from instsel.attribution import attribute
    from instsel.config.file import load_study as load_config
    from instsel.config.study import StudyConfig
    from instsel.gradients.engine import GradientEngine
    from instsel.gradients.sketch import CountSketch
    from instsel.selection.picked import Selection
    from instsel.selection.registry import select

__version__ = "0.7.0"

__all__ = [
    "CountSketch",
    "GradientEngine",
    "Selection",
    "__version__",
    "attribute",
    "load_config",
    "open_study",
    "run",
    "select",
]

_LAZY = {
    "CountSketch": ("instsel.gradients.sketch", "CountSketch"),
    "GradientEngine": ("instsel.gradients.engine", "GradientEngine"),
    "Selection": ("instsel.selection.picked", "Selection"),
    "attribute": ("instsel.attribution", "attribute"),
    "load_config": ("instsel.config.file", "load_study"),
    "open_study": ("instsel.api.study", "open_study"),
    "select": ("instsel.selection.registry", "select"),
}


def __getattr__(name: str) -> Any:
    """Load a public name from its module."""
    if name not in _LAZY:
        raise AttributeError(f"module 'instsel' has no attribute {name!r}")
    module, attribute_name = _LAZY[name]
    value = getattr(import_module(module), attribute_name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return sorted({*__all__, "__doc__", "__file__", "__name__", "__path__", "__version__"})


def run(
    config: "StudyConfig | str | os.PathLike[str]",
    *,
    until: str | None = None,
    overrides: Sequence[str] = (),
    redo: bool = False,
) -> "Study":
    """Run the stages of a study that are not done, as `instsel run` does.

    Args:
        config: A study from `load_config`, or the path or URI of a study file.
        until: Last stage to run; by default the report.
        overrides: `key=value` texts as after `--set`: "selection.budget=0.05".
        redo: Delete results in a store that other settings left and that took more than a minute; on a disk they are
            kept below `stale`.

    Returns:
        The study, opened.

    Raises:
        InputError: the study file, its values or the user's files are wrong.
        StudyError: a stage failed.
    """
    from instsel.api.study import open_study
    from instsel.config.file import load_study, override, parse_study
    from instsel.config.study import StudyConfig
    from instsel.console import Terminal
    from instsel.errors import InputError
    from instsel.pipeline.registry import stage_names
    from instsel.pipeline.runner import run_study

    stages = stage_names()
    if until is not None and until not in stages:
        raise InputError(f"until is {until!r}; the stages are {', '.join(stages)}")
    if not isinstance(config, StudyConfig):
        study = load_study(os.fspath(config), overrides)
    elif overrides:
        raw = config.model_dump()
        for setting in overrides:
            override(raw, setting)
        study = parse_study(raw, f"study {config.name}")
    else:
        study = config
    run_study(study, Terminal(), until, redo=redo)
    return open_study(study.out)
