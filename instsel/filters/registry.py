"""The filters by their names in a study file: the modules of this package, and those that other packages bring.

A package brings a filter by an entry point of the group `instsel.filters` whose object is a subclass of `Filter`:

    [project.entry-points."instsel.filters"]
    no_links = "my_package.links:NoLinks"
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import BeforeValidator, Field

import instsel.filters
from instsel.errors import InputError
from instsel.filters.base import Filter
from instsel.plugins import EntryKind

GROUP = "instsel.filters"


@dataclass(frozen=True)
class FilterRegistry:
    """Filters by the name that a study file gives them, sorted, and what is wrong with those that cannot be loaded.

    Attributes:
        filters: name -> class.
        problems: one sentence for each entry point that brings no filter.
    """

    filters: dict[str, type[Filter]]
    problems: list[str]

    def check(self) -> None:
        """Check that all filters could be loaded.

        Raises:
            InputError: an entry point is broken; the message names it.
        """
        if self.problems:
            raise InputError("\n".join(self.problems))


def load_filters() -> FilterRegistry:
    """Collect the filters of this package and of the entry points."""
    return FilterRegistry(*EntryKind[Filter](Filter, "filter", GROUP, instsel.filters).load())


REGISTRY = load_filters()


def _entry(value: Any) -> Any:
    """Let a bare name stand for an entry without options."""
    REGISTRY.check()
    return {"filter": value} if isinstance(value, str) else value


if TYPE_CHECKING:
    AnyFilter = Filter
else:
    _union = Union[tuple(REGISTRY.filters.values())]  # noqa: UP007
    AnyFilter = Annotated[Annotated[_union, Field(discriminator="filter")], BeforeValidator(_entry)]
    """An entry of `data.filters`: a filter's name, or its name and options."""
