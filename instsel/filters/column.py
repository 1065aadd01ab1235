"""The filter by another column of a row: a score above a threshold, or one of some values."""

import math
from collections.abc import Mapping
from typing import Literal

from pydantic import Field, JsonValue, model_validator

from instsel.filters.base import Filter, FilterRow
from instsel.filters.length import check_bounds

Scalar = str | bool | int | float


class Column(Filter):
    """Keep rows by what a column says: a number between two bounds, or one of some values."""

    filter: Literal["column"] = Field(description="value of another column of the row")
    column: str = Field(min_length=1, description="name of the column; `meta.score` is the key `score` inside `meta`")
    min: float | int | None = Field(None, description="smallest number that is kept")
    max: float | int | None = Field(None, description="largest number that is kept")
    values: list[Scalar] | None = Field(
        None, min_length=1, description="values that are kept; of a column of lists, one of the list is enough"
    )
    exclude: list[Scalar] | None = Field(None, min_length=1, description="values that are rejected")
    missing: Literal["reject", "keep"] = Field("reject", description="what happens to rows without the column")

    @model_validator(mode="after")
    def _check(self) -> "Column":
        if self.values is None and self.exclude is None:
            check_bounds(self.min, self.max, "`min`, `max`, `values` or `exclude`")
        elif self.min is not None or self.max is not None:
            raise ValueError("`min` and `max` are of numbers, `values` and `exclude` of all else; write two filters")
        both = sorted(set(map(_key, self.values or ())) & set(map(_key, self.exclude or ())))
        if both:
            raise ValueError(f"{both[0]!r} is in `values` and in `exclude`; remove it from one of them")
        return self

    def reject(self, row: FilterRow) -> str | None:
        value = _lookup(row.extra, self.column)
        if value is None:
            return f"no column {self.column!r}" if self.missing == "reject" else None
        if self.values is None and self.exclude is None:
            return self._out_of_bounds(value)
        keys = {_key(item) for item in (value if isinstance(value, list) else [value])}
        excluded = next((item for item in self.exclude or () if _key(item) in keys), None)
        if excluded is not None:
            return f"column {self.column!r} is {excluded!r}"
        if self.values is not None and keys.isdisjoint(map(_key, self.values)):
            return f"column {self.column!r} is none of the values"
        return None

    def _out_of_bounds(self, value: JsonValue) -> str | None:
        number = _number(value)
        if number is None:
            return f"column {self.column!r} is not a number"
        if self.min is not None and number < self.min:
            return f"column {self.column!r} is below {self.min}"
        if self.max is not None and number > self.max:
            return f"column {self.column!r} is above {self.max}"
        return None


def _lookup(columns: Mapping[str, JsonValue], name: str) -> JsonValue:
    """Return the value of a column, or of a key inside one where the name has dots; None where there is none."""
    if name in columns:
        return columns[name]
    head, dot, rest = name.partition(".")
    while dot:
        inner = columns.get(head)
        if isinstance(inner, dict):
            return _lookup(inner, rest)
        more, dot, rest = rest.partition(".")
        head = f"{head}.{more}"
    return None


def _number(value: JsonValue) -> float | None:
    """Return a finite number, which may be written as text, as CSV has it; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _key(value: JsonValue) -> str:
    """Return a value as text, so that 1, 1.0 and "1" are one value, and true and "true" are."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()
