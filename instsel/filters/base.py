"""The contract of a filter: its entry in the study file, and the rows of the pool that it looks at.

A filter is a subclass of `Filter` that a study file names. The modules of this package are found by
`instsel.filters.registry`, those of other packages by the entry point `instsel.filters`.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pydantic import Field, JsonValue, model_validator

from instsel.console import one_line
from instsel.errors import InputError
from instsel.strict import StrictModel, usable_name

Part = Literal["prompt", "answer", "row"]
LONGEST_REASON = 200
_PREFIX = "filter "


@dataclass(frozen=True)
class FilterRow:
    """A row of the pool, as filters see it.

    Attributes:
        messages: turns with `role` and `content`; other keys may be there.
        extra: the row's other columns by name, as JSON has them.
        tokens: of the whole conversation, before `data.max_length` cuts it; None where rows are not tokenised yet.
        answer_tokens: those of it that are trained on.
    """

    messages: Sequence[Mapping[str, Any]]
    extra: Mapping[str, JsonValue] = field(default_factory=dict)
    tokens: int | None = None
    answer_tokens: int | None = None

    def text(self, part: Part) -> str:
        """Return what the turns of a part say, a line break between two.

        The answer is what the assistant's turns say, the prompt what all others do. Calls of tools and reasoning are no
        part of a text.
        """
        contents = (
            turn.get("content")
            for turn in self.messages
            if part == "row" or (turn.get("role") == "assistant") == (part == "answer")
        )
        return "\n".join(content for content in contents if isinstance(content, str) and content)

    def token_count(self, part: Part) -> int:
        """Return the tokens of a part; those of the prompt are all that are not trained on.

        Raises:
            ValueError: the row was not tokenised.
        """
        if self.tokens is None or self.answer_tokens is None:
            raise ValueError("the row has no tokens yet; filters that need them come after tokenising")
        return {"row": self.tokens, "answer": self.answer_tokens, "prompt": self.tokens - self.answer_tokens}[part]


class Filter(StrictModel, ABC):
    """A filter as the study file has it: the entry, checked, is the filter.

    A subclass gives `filter` the literal that names it, and has `reject`.

    Attributes:
        version: Raised when the same settings reject other rows; part of the fingerprint of stage *prepare*.
    """

    version: ClassVar[int] = 1

    filter: str = Field(description="name of the filter")
    name: str = Field("", description="name in reasons and reports; default the filter's")

    @model_validator(mode="after")
    def _name_by_filter(self) -> "Filter":
        if "name" not in self.model_fields_set:
            object.__setattr__(self, "name", self.filter)  # The model is frozen.
        usable_name(self.name)
        return self

    @property
    def needs_tokens(self) -> bool:
        """Whether rows must be tokenised first; the others are rejected before, which saves that work."""
        return False

    @abstractmethod
    def reject(self, row: FilterRow) -> str | None:
        """Return why a row is rejected, or None to keep it.

        Rows are counted by their reasons: the text says what the row lacks, in a few words, and nothing that only this
        row has.
        """

    def reject_all(self, rows: Sequence[FilterRow]) -> list[str | None]:
        """Return the result of `reject` for each row; override it where many rows at once are faster."""
        return [self.reject(row) for row in rows]

    def settings(self) -> dict[str, JsonValue]:
        """Return what the filter's choice depends on, JSON values: part of the fingerprint of stage *prepare*."""
        return {"version": self.version, **self.model_dump(mode="json")}


class TextFilter(Filter):
    """A filter that looks at a text of the row."""

    of: Part = Field(
        "row", description="text to look at: prompt, answer (what the assistant's turns say), or row for both"
    )

    @property
    def what(self) -> str:
        """The text, in the words of a reason."""
        return f"the {self.of}"


def name_filters(filters: Sequence[Filter]) -> None:
    """Number filters of one name where it is only their kind's: length, length-2.

    Raises:
        ValueError: two filters were given one name.
    """
    given = [each.name for each in filters if "name" in each.model_fields_set]
    twice = [name for name, count in Counter(given).items() if count > 1]
    if twice:
        raise ValueError(f"two filters are called {twice[0]!r}; give one of them another `name`")
    taken = set(given)
    for each in filters:
        if "name" in each.model_fields_set:
            continue
        number, name = 1, each.filter
        while name in taken:
            number += 1
            name = f"{each.filter}-{number}"
        object.__setattr__(each, "name", name)
        taken.add(name)


def rejections(filters: Sequence[Filter], rows: Sequence[FilterRow]) -> list[str | None]:
    """Apply filters to rows of the pool, in the order of the study file.

    Returns:
        For each row the reason of the first filter that rejects it, `filter NAME: ...`; None for a row that all keep.

    Raises:
        InputError: a filter that a package brings fails, or returns something else than a reason or None.
    """
    reasons: list[str | None] = [None] * len(rows)
    for each in filters:
        remaining = [index for index, reason in enumerate(reasons) if reason is None]
        for index, reason in zip(remaining, _results(each, [rows[index] for index in remaining]), strict=True):
            if reason is not None:
                reasons[index] = f"{_PREFIX}{each.name}: {one_line(reason)[:LONGEST_REASON]}"
    return reasons


def _results(each: Filter, rows: Sequence[FilterRow]) -> list[str | None]:
    try:
        results = each.reject_all(rows)
    except Exception as error:
        # Whatever the code of a package raises: the filter is named, which the error alone would not do.
        raise InputError(f"data.filters: the filter {each.name!r} failed: {type(error).__name__}: {error}") from error
    wrong = [result for result in results if result is not None and not (isinstance(result, str) and result.strip())]
    if wrong or len(results) != len(rows):
        what = repr(wrong[0]) if wrong else f"{len(results)} results for {len(rows)} rows"
        raise InputError(
            f"data.filters: the filter {each.name!r} returned {what}; expected a reason, or None to keep the row"
        )
    return results


def counts_by_filter(rejected: Mapping[str, int]) -> dict[str, int]:
    """Return how many rows each filter rejected, by its name, the most first.

    Args:
        rejected: counts by reason, as stage *prepare* keeps them; reasons that are no filter's are passed over.
    """
    counts: Counter[str] = Counter()
    for reason, count in rejected.items():
        if is_filtered(reason):
            counts[reason.removeprefix(_PREFIX).partition(": ")[0]] += count
    return dict(counts.most_common())


def is_filtered(reason: str) -> bool:
    """Return whether a row was rejected by a filter."""
    return reason.startswith(_PREFIX)


def why_filtered(rejected: Mapping[str, int]) -> str | None:
    """Say which filters rejected the rows of a pool that has none left; None where no filter rejected any."""
    counts = counts_by_filter(rejected)
    if not counts:
        return None
    mostly: dict[str, str] = {}
    for reason, _ in sorted(rejected.items(), key=lambda item: -item[1]):
        if is_filtered(reason):
            name, _, why = reason.removeprefix(_PREFIX).partition(": ")
            mostly.setdefault(name, why)
    shown = ", ".join(f"{name!r} rejected {count} ({mostly[name]})" for name, count in counts.items())
    return f"data.filters: of {sum(rejected.values())} rejected rows {shown}; loosen or remove these filters"
