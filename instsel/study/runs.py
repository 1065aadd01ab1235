"""The runs of a study: one training a method, budget and seed."""

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
        arm: name of the runs that differ in the seed alone, which reports average: the method's, with its budget where
            the study has several ("bids@0.05").
        budget: that is selected for, as the study file has it.
    """

    name: str
    method: Method
    seed: int
    selection: str
    arm: str
    budget: int | float


def runs_of(config: StudyConfig) -> dict[str, Run]:
    """Return the runs by name: one a method, budget and seed. What takes the whole pool has one for all budgets.

    Raises:
        InputError: two of them would have one name.
    """
    runs: dict[str, Run] = {}
    owners: dict[str, Method] = {}
    part = config.selection
    for method in config.selection.methods:
        for budget in [part.largest_budget] if method.picks == "all" else part.budgets:
            has_several = method.picks != "all" and len(part.budgets) > 1
            arm = f"{method.name}@{budget}" if has_several else method.name
            for seed in method.seeds:
                name = f"{arm}-{seed}" if len(method.seeds) > 1 else arm
                selection = name if method.is_stochastic else arm
                if name in runs or name == BASE or owners.setdefault(selection, method) is not method:
                    raise InputError(
                        f"selection.methods: two runs would be called {name!r}, or two selections {selection!r}; "
                        "rename a method or drop a seed"
                    )
                runs[name] = Run(name, method, seed, selection, arm, budget)
    return runs


def selections_of(config: StudyConfig) -> dict[str, Run]:
    """Return the selections by name, each with a run that is trained on it."""
    selections: dict[str, Run] = {}
    for run in runs_of(config).values():
        selections.setdefault(run.selection, run)
    return selections


def reference_of(config: StudyConfig, run: Run) -> Run | None:
    """Return the run whose selection another one's refers to, None if to none.

    It is that of the same budget, and of the same seed if there is one, else the first.
    """
    if run.method.refers_to is None:
        return None
    of_budget = (other for other in runs_of(config).values() if other.budget == run.budget)
    runs = [other for other in of_budget if other.method.name == run.method.refers_to]
    return next((other for other in runs if other.seed == run.seed), runs[0])


def check_sources(method: Method, pool: PoolResult) -> None:
    """Check that the pool has the sources that a method names.

    Raises:
        InputError: it does not; the message names near ones.
    """
    try:
        method.check_sources(pool.sources)
    except ValueError as error:
        raise InputError(str(error)) from error
