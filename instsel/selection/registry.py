"""The methods by their names in a study file: the modules of this package, and those that other packages bring.

A package brings a method by an entry point of the group `instsel.methods` whose object is a subclass of `Method`:

    [project.entry-points."instsel.methods"]
    shortest = "my_package.shortest:Shortest"
"""

import inspect
import pkgutil
import reprlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BeforeValidator, Field

import instsel.selection
from instsel.errors import InputError
from instsel.selection.base import Method, Selection

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


def method_name(method: type[Method]) -> str:
    """Return the name by which a study file calls a method; "" for an abstract class.

    Raises:
        TypeError: the class gives `method` no literal of one text.
    """
    if inspect.isabstract(method):
        return ""
    annotation = method.model_fields["method"].annotation
    names = get_args(annotation) if get_origin(annotation) is Literal else ()
    if len(names) != 1 or not isinstance(names[0], str) or not names[0]:
        raise TypeError(f'{method.__name__}.method must be annotated with the method\'s name, Literal["..."]')
    return names[0]


def load_methods() -> Registry:
    """Collect the methods of this package and of the entry points."""
    methods = {method_name(method): method for method in _builtin()}
    origins = dict.fromkeys(methods, "instsel")
    problems = []
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value)):
        origin = f"entry point {entry.name} = {entry.value} of {entry.dist.name if entry.dist else 'a package'}"
        try:
            method = entry.load()
            if not (isinstance(method, type) and issubclass(method, Method)):
                raise TypeError(f"it is {method!r}, no subclass of instsel.selection.base.Method")
            name = method_name(method)
            if not name:
                raise TypeError(
                    f"{method.__name__} is abstract: it lacks {', '.join(sorted(method.__abstractmethods__))}"
                )
        except Exception as error:
            # Whatever a package raises as it is imported: it must not end a command that can name it.
            problems.append(f"{GROUP}: {origin} cannot be loaded: {error}; repair or uninstall the package")
            continue
        if name in methods:
            problems.append(f"{GROUP}: {origin} brings the method {name!r}, as {origins[name]} does; uninstall one")
            continue
        methods[name], origins[name] = method, origin
    return Registry(dict(sorted(methods.items())), problems)


def _builtin() -> Iterator[type[Method]]:
    """Yield the methods of this package's modules."""
    for module_info in pkgutil.iter_modules(instsel.selection.__path__):
        name = f"{instsel.selection.__name__}.{module_info.name}"
        if name == __name__:
            continue
        module = import_module(name)
        for value in vars(module).values():
            is_of_module = isinstance(value, type) and issubclass(value, Method) and value.__module__ == name
            if is_of_module and not inspect.isabstract(value) and not value.__name__.startswith("_"):
                yield value


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


def select(method: str, data: Any, budget: int, **options: Any) -> Selection:
    """Pick rows by a method, without a study.

    The method's array function is called with `data`, the budget and the options: `instsel.select("bids", influence,
    500)` is `instsel.selection.bids.select(influence, 500)`. What it takes and raises is in that function's docstring.

    Args:
        method: Its name in a study file.
        data: Influence (n, m) for bids, less (`subtasks=`), round_robin, instance_max, task_max (`tasks=`) and sum;
            embeddings (n, e) for smart (`tasks=`), facility_location, graph_cut and log_det; features (n, d) for g2is
            and rds (`validation=`); answer tokens (n,) for longest; losses (n,) for perplexity and ifd
            (`loss_alone=`); n for random (`seed=`); a label of each row (n,) for proportional and equal (`seed=`).
        budget: Rows wanted; above n gives all n.
        options: Keyword arguments of the array function.

    Raises:
        ValueError: there is no such method or option, an option that the method needs is missing, or the data or an
            option is not what the method takes; the message has the value and what was expected.
        InputError: a package that brings methods is broken.
    """
    REGISTRY.check()
    functions = {name: entry.array_function for name, entry in REGISTRY.methods.items() if entry.array_function}
    if method not in functions:
        raise ValueError(f"method must be one of {', '.join(functions)}, got {method!r}")
    function = functions[method]
    _check_options(method, function, options)
    try:
        return function(data, budget=budget, **options)
    except TypeError as error:
        shown = ", ".join(f"{name}={reprlib.repr(value)}" for name, value in options.items())
        raise ValueError(
            f"{method}: data or an option has a wrong type, got {shown or 'no options'}: {error}"
        ) from error


def _check_options(method: str, function: Callable[..., Selection], options: Mapping[str, object]) -> None:
    """Check that the options are those of the function: what is after its first argument, the budget left out."""
    fixed = getattr(function, "keywords", {})
    parameters = list(inspect.signature(function).parameters.values())[1:]
    known = {each.name: each for each in parameters if each.name != "budget" and each.name not in fixed}
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
