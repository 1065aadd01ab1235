"""Entries of a study file that are classes, by their names: those of this package, and those that other packages bring.

An entry is a pydantic model with a key that names it, such as `method`, annotated with a literal of one text. A package
brings one by an entry point whose object is a subclass of the contract.
"""

import inspect
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any, Generic, Literal, TypeVar, get_args, get_origin

EntryT = TypeVar("EntryT")


@dataclass(frozen=True)
class EntryKind(Generic[EntryT]):
    """A kind of entry.

    Attributes:
        contract: abstract class that every entry of this kind is a subclass of.
        key: field whose literal names an entry, and word for the kind in messages: "method".
        group: of the entry points.
        package: whose modules define the entries that are always there.
    """

    # Not `type[EntryT]`, for which mypy takes no abstract class.
    contract: Any
    key: str
    group: str
    package: ModuleType

    def name_of(self, entry: Any) -> str:
        """Return the name by which a study file calls an entry; "" for an abstract class.

        Raises:
            TypeError: the class gives the key no literal of one text.
        """
        if inspect.isabstract(entry):
            return ""
        annotation = entry.model_fields[self.key].annotation
        names = get_args(annotation) if get_origin(annotation) is Literal else ()
        if len(names) != 1 or not isinstance(names[0], str) or not names[0]:
            what = f"annotated with the {self.key}'s name"
            raise TypeError(f'{entry.__name__}.{self.key} must be {what}, Literal["..."]')
        return names[0]

    def load(self) -> tuple[dict[str, type[EntryT]], list[str]]:
        """Collect the entries of the package and of the entry points.

        Returns:
            The classes by name, sorted, and one sentence for each entry point that brings none.
        """
        entries = {self.name_of(entry): entry for entry in self._builtin()}
        origins = dict.fromkeys(entries, "instsel")
        problems = []
        for point in sorted(entry_points(group=self.group), key=lambda point: (point.name, point.value)):
            origin = f"entry point {point.name} = {point.value} of {point.dist.name if point.dist else 'a package'}"
            try:
                entry = self._checked(point.load())
                name = self.name_of(entry)
            except Exception as error:
                # Whatever a package raises as it is imported: it must not end a command that can name it.
                problems.append(f"{self.group}: {origin} cannot be loaded: {error}; repair or uninstall the package")
                continue
            if name in entries:
                problems.append(
                    f"{self.group}: {origin} brings the {self.key} {name!r}, as {origins[name]} does; uninstall one"
                )
                continue
            entries[name], origins[name] = entry, origin
        return dict(sorted(entries.items())), problems

    def _checked(self, entry: Any) -> type[EntryT]:
        if not (isinstance(entry, type) and issubclass(entry, self.contract)):
            contract = f"{self.contract.__module__}.{self.contract.__name__}"
            raise TypeError(f"it is {entry!r}, no subclass of {contract}")
        if inspect.isabstract(entry):
            lacking = ", ".join(sorted(getattr(entry, "__abstractmethods__", ())))
            raise TypeError(f"{entry.__name__} is abstract: it lacks {lacking}")
        checked: type[EntryT] = entry
        return checked

    def _builtin(self) -> Iterator[type[EntryT]]:
        """Yield the entries of the package's modules; the module that loads them is passed over."""
        for module_info in pkgutil.iter_modules(self.package.__path__):
            if module_info.name == "registry":
                continue
            name = f"{self.package.__name__}.{module_info.name}"
            for value in vars(import_module(name)).values():
                is_of_module = isinstance(value, type) and issubclass(value, self.contract) and value.__module__ == name
                if is_of_module and not inspect.isabstract(value) and not value.__name__.startswith("_"):
                    yield value
