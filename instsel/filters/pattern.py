"""The filter by a regular expression.

Patterns are RE2's, which Arrow brings: their time grows as the length of a text and no faster, so that no row can hold
up a study, and the same rows are rejected on a slow machine as on a fast one, which a timeout could not promise. The
price is that RE2 has no look-around and no references back to a group.
"""

from collections.abc import Sequence
from typing import Literal

import pyarrow as pa
from pydantic import Field, field_validator

from instsel.filters.base import FilterRow, TextFilter

SHOWN = 60


class Regex(TextFilter):
    """Reject rows in which a pattern occurs, or those in which it does not."""

    filter: Literal["regex"] = Field(description="regular expression that the text has or lacks")
    pattern: str = Field(
        min_length=1, description="regular expression of RE2, searched for anywhere; (?i) at its start ignores case"
    )
    matches: Literal["reject", "keep"] = Field("reject", description="what happens to rows in which it occurs")

    @field_validator("pattern")
    @classmethod
    def _check(cls, pattern: str) -> str:
        try:
            _search([""], pattern)
        except pa.ArrowInvalid as error:
            why = str(error).removeprefix("Invalid regular expression: ")
            raise ValueError(
                f"{why}: no regular expression of RE2, which has neither look-around nor references to groups"
            ) from error
        return pattern

    def reject(self, row: FilterRow) -> str | None:
        return self.reject_all([row])[0]

    def reject_all(self, rows: Sequence[FilterRow]) -> list[str | None]:
        # All at once, as every call compiles the pattern.
        matched = _search([row.text(self.of) for row in rows], self.pattern)
        shown = self.pattern if len(self.pattern) <= SHOWN else f"{self.pattern[:SHOWN]}..."
        reason = f"{self.what} matches {shown}" if self.matches == "reject" else f"{self.what} does not match {shown}"
        return [reason if is_match == (self.matches == "reject") else None for is_match in matched]


def _search(texts: Sequence[str], pattern: str) -> list[bool]:
    """Return for each text whether the pattern occurs in it.

    Raises:
        pa.ArrowInvalid: RE2 does not take the pattern.
    """
    import pyarrow.compute as pc

    # Texts of more than 2 GiB in all would not fit into a plain string array.
    matched: list[bool] = pc.match_substring_regex(pa.array(texts, pa.large_string()), pattern=pattern).to_pylist()
    return matched
