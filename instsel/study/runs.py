"""The runs of a study: one training a method and seed."""

from dataclasses import dataclass

from instsel.config.study import StudyConfig
from instsel.errors import InputError
from instsel.selection.base import Method
from instsel.study.results import PoolResult

# The untrained model, which is evaluated beside the runs.
BASE = "base"


@dataclass(frozen=True)
class Run:
    """One training on a selection.

    Attributes:
        name: of the run.
        method: that selects.
        seed: added to that of training; a stochastic method selects by it.
        selection: name of the selection, which runs of a method that is not stochastic share.
    """

    name: str
    method: Method
    seed: int
    selection: str


def runs_of(config: StudyConfig) -> dict[str, Run]:
    """Return the runs by name: one a method, or one a seed for a method with several.

    Raises:
        InputError: two of them would have one name.
    """
    runs: dict[str, Run] = {}
    owners: dict[str, Method] = {}
    for method in config.selection.methods:
        for seed in method.seeds:
            name = f"{method.name}-{seed}" if len(method.seeds) > 1 else method.name
            selection = name if method.is_stochastic else method.name
            if name in runs or name == BASE or owners.setdefault(selection, method) is not method:
                raise InputError(
                    f"selection.methods: two runs would be called {name!r}, or two selections {selection!r}; "
                    "rename a method or drop a seed"
                )
            runs[name] = Run(name, method, seed, selection)
    return runs


def selections_of(config: StudyConfig) -> dict[str, Run]:
    """Return the selections by name, each with a run that is trained on it."""
    selections: dict[str, Run] = {}
    for run in runs_of(config).values():
        selections.setdefault(run.selection, run)
    return selections


def reference_of(config: StudyConfig, method: Method, seed: int) -> Run | None:
    """Return the run whose selection an entry refers to: that of the same seed if there is one, else the first.

    Args:
        config: the checked study file.
        method: the entry.
        seed: of its selection.
    """
    if method.refers_to is None:
        return None
    runs = [run for run in runs_of(config).values() if run.method.name == method.refers_to]
    return next((run for run in runs if run.seed == seed), runs[0])


def check_sources(method: Method, pool: PoolResult) -> None:
    """Check that the pool has the sources that a method names.

    Raises:
        InputError: it does not; the message names near ones.
    """
    try:
        method.check_sources(pool.sources)
    except ValueError as error:
        raise InputError(str(error)) from error
