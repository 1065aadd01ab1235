"""Filters by size: the length of a text, and the number of turns."""

from typing import Literal

from pydantic import Field, model_validator

from instsel.filters.base import Filter, FilterRow, TextFilter


class Length(TextFilter):
    """Keep rows whose text has a length between two bounds."""

    filter: Literal["length"] = Field(description="length of the prompt, the answer or both")
    unit: Literal["words", "characters", "tokens"] = Field(
        "words", description="what is counted; words are what white space separates"
    )
    min: int | None = Field(None, ge=1, description="shortest length that is kept")
    max: int | None = Field(None, ge=0, description="longest length that is kept")

    @model_validator(mode="after")
    def _check(self) -> "Length":
        check_bounds(self.min, self.max)
        return self

    @property
    def needs_tokens(self) -> bool:
        return self.unit == "tokens"

    def reject(self, row: FilterRow) -> str | None:
        if self.unit == "tokens":
            length = row.token_count(self.of)
        else:
            text = row.text(self.of)
            length = len(text.split()) if self.unit == "words" else len(text)
        if self.min is not None and length < self.min:
            return f"fewer than {self.min} {self.unit} in {self.what}"
        if self.max is not None and length > self.max:
            return f"more than {self.max} {self.unit} in {self.what}"
        return None


class Turns(Filter):
    """Keep conversations with a number of turns between two bounds."""

    filter: Literal["turns"] = Field(description="number of turns")
    min: int | None = Field(None, ge=1, description="fewest turns that are kept; a system turn does not count")
    max: int | None = Field(None, ge=1, description="most turns that are kept; a question and its answer are two")

    @model_validator(mode="after")
    def _check(self) -> "Turns":
        check_bounds(self.min, self.max)
        return self

    def reject(self, row: FilterRow) -> str | None:
        turns = sum(turn.get("role") not in ("system", "developer") for turn in row.messages)
        if self.min is not None and turns < self.min:
            return f"fewer than {self.min} turns"
        if self.max is not None and turns > self.max:
            return f"more than {self.max} turns"
        return None


def check_bounds(low: float | None, high: float | None, keys: str = "`min` or `max`") -> None:
    """Check the bounds of a filter.

    Raises:
        ValueError: there is none, or nothing lies between them; `keys` are those to give.
    """
    if low is None and high is None:
        raise ValueError(f"nothing is asked for; give {keys}")
    if low is not None and high is not None and low > high:
        raise ValueError(f"min is {low} and max is {high}, so that every row is rejected; exchange them")
