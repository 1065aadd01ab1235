"""The methods by their names in a study file: the modules of this package, and those that other packages bring.

A package brings a method by an entry point of the group `instsel.methods` whose object is a subclass of `Method`:

    [project.entry-points."instsel.methods"]
    shortest = "my_package.shortest:Shortest"
"""

import inspect
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

from pydantic import BeforeValidator, Field

import instsel.selection
from instsel import arrays
from instsel.errors import InputError
from instsel.plugins import EntryKind
from instsel.selection.base import Method
from instsel.selection.picked import Selection
from instsel.selection.quotas import select as by_quotas

GROUP = "instsel.methods"


@dataclass(frozen=True)
class Registry:
    """Methods by the name that a study file gives them, sorted, and what is wrong with those that cannot be loaded.

    Attributes:
        methods: name -> class.
        problems: one sentence for each entry point that brings no method.
    """

    methods: dict[str, type[Method]]
    problems: list[str]

    def check(self) -> None:
        """Check that all methods could be loaded.

        Raises:
            InputError: an entry point is broken; the message names it.
        """
        if self.problems:
            raise InputError("\n".join(self.problems))


def load_methods() -> Registry:
    """Collect the methods of this package and of the entry points."""
    return Registry(*EntryKind[Method](Method, "method", GROUP, instsel.selection).load())


REGISTRY = load_methods()


def _entry(value: Any) -> Any:
    """Let a bare name stand for an entry without options."""
    REGISTRY.check()
    return {"method": value} if isinstance(value, str) else value


if TYPE_CHECKING:
    AnyMethod = Method
else:
    _union = Union[tuple(REGISTRY.methods.values())]  # noqa: UP007
    AnyMethod = Annotated[Annotated[_union, Field(discriminator="method")], BeforeValidator(_entry)]
    """An entry of `selection.methods`: a method's name, or its name and options."""


def select(
    method: str,
    data: Any,
    budget: int,
    *,
    quotas: Mapping[Any, float] | Literal["equal"] | None = None,
    **options: Any,
) -> Selection:
    """Pick rows by a method, without a study.

    The method's array function is called with `data`, the budget and the options: `instsel.select("bids", influence,
    500)` is `instsel.selection.bids.select(influence, 500)`. What it takes and raises is in that function's docstring.

    Args:
        method: Its name in a study file.
        data: Influence (n, m) for bids, less (`subtasks=`), round_robin, instance_max, task_max (`tasks=`) and sum;
            embeddings (n, e) for smart (`tasks=`), facility_location, graph_cut and log_det; features (n, d) for g2is
            and rds (`validation=`); answer tokens (n,) for longest; losses (n,) for perplexity and ifd
            (`loss_alone=`); n prompts, as texts, for bm25 (`validation=`); n for random (`seed=`); a label of each row
            (n,) for proportional and equal (`seed=`).
        budget: Rows wanted; above n gives all n.
        quotas: Share of the picks that each label of `targets=`, (m,) one label a column, has; in all 1, or "equal"
            (bids, less, round_robin, instance_max, task_max, sum). Counts are by largest remainder. Labels choose in
            turn, in sorted order, a row each as long as their count lasts, and each by the method on its own columns;
            a row that is taken is there for nobody else. `driven_by` is as without quotas.
        options: Keyword arguments of the array function.

    Raises:
        ValueError: there is no such method or option, quotas do not fit the targets, an option that the method needs
            is missing, or the data or an option is not what the method takes; the message has the value and what was
            expected.
        InputError: a package that brings methods is broken.
    """
    REGISTRY.check()
    functions = {name: entry.array_function for name, entry in REGISTRY.methods.items() if entry.array_function}
    if method not in functions:
        raise ValueError(f"method must be one of {', '.join(functions)}, got {method!r}")
    try:
        if quotas is not None:
            return _by_quotas(method, data, budget, quotas, options)
        function = functions[method]
        _check_options(method, function, options)
        return function(data, budget=budget, **options)
    except TypeError as error:
        shown = ", ".join(f"{name}={reprlib.repr(value)}" for name, value in options.items())
        raise ValueError(
            f"{method}: data or an option has a wrong type, got {shown or 'no options'}: {error}"
        ) from error


def _by_quotas(
    method: str,
    data: Any,
    budget: int,
    quotas: Mapping[Any, float] | Literal["equal"],
    options: Mapping[str, Any],
) -> Selection:
    """Pick rows as `select` does, target by target."""
    functions = {name: entry.array_pickers for name, entry in REGISTRY.methods.items() if entry.array_pickers}
    if method not in functions:
        raise ValueError(f"quotas are for methods that read columns: {', '.join(functions)}; got {method!r}")
    if "targets" not in options:
        raise ValueError(f"quotas need targets=, one label a column; got {list(options) or 'no options'}")
    function, targets = functions[method], options["targets"]
    others = {name: value for name, value in options.items() if name != "targets"}
    _check_options(method, function, others)
    matrix = arrays.attribution_matrix(data)
    if len(targets) != matrix.shape[1]:
        raise ValueError(f"targets must have one label for each of {matrix.shape[1]} columns, got {len(targets)}")
    choice = by_quotas(partial(function, matrix, **others), len(matrix), budget, quotas=quotas, targets=targets)
    return choice.selection


def _check_options(method: str, function: Callable[..., object], options: Mapping[str, object]) -> None:
    """Check that the options are those of the function: what is after its first argument, numbers left out."""
    fixed = {*getattr(function, "keywords", {}), "budget", "groups", "count"}
    parameters = list(inspect.signature(function).parameters.values())[1:]
    known = {each.name: each for each in parameters if each.name not in fixed}
    for name, value in options.items():
        if name not in known:
            raise ValueError(
                f"{method} has no option {name}={reprlib.repr(value)}; its options are {', '.join(known) or 'none'}"
            )
    missing = [name for name, each in known.items() if each.default is inspect.Parameter.empty and name not in options]
    if missing:
        raise ValueError(
            f"{method} needs {', '.join(f'{name}=' for name in missing)}, got {list(options) or 'no options'}"
        )
