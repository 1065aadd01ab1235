"""Filters of texts that are hardly language: few letters, or the same words again and again.

Code, tables and poems with a refrain exceed such bounds for good reasons: look at the examples in the report.
"""

import unicodedata
from typing import Literal

from pydantic import Field

from instsel.filters.base import FilterRow, TextFilter


class NonLetters(TextFilter):
    """Reject texts of which too large a share is neither letter nor white space."""

    filter: Literal["non_letters"] = Field(description="share of characters that are no letters")
    max: float = Field(
        0.5, ge=0, lt=1, description="largest share of digits, signs and symbols among all that is not white space"
    )

    def reject(self, row: FilterRow) -> str | None:
        share = non_letter_share(row.text(self.of))
        return f"more than {self.max:g} of {self.what} are no letters" if share > self.max else None


class Repetition(TextFilter):
    """Reject texts that repeat themselves, as Gopher's rules for web pages do (arXiv 2112.11446, Table A1)."""

    filter: Literal["repetition"] = Field(description="share of a text in n-grams of words that occurred before")
    n: int = Field(5, ge=1, description="words of an n-gram")
    max: float = Field(
        0.15, ge=0, lt=1, description="largest share of the characters of all words that such n-grams may cover"
    )

    def reject(self, row: FilterRow) -> str | None:
        share = repeated_share(row.text(self.of), self.n)
        return f"more than {self.max:g} of {self.what} repeats {self.n} words" if share > self.max else None


def non_letter_share(text: str) -> float:
    """Return the share of a text, white space left out, that is no letter of any script; 0 for an empty text.

    The signs that some scripts write above, below or between letters count as letters, as do those that join them.
    """
    characters = [character for character in text if not character.isspace()]
    letters = sum(
        character.isalpha() or (character > "\x7f" and unicodedata.category(character) in ("Mn", "Mc", "Cf"))
        for character in characters
    )
    return 1 - letters / len(characters) if characters else 0.0


def repeated_share(text: str, n: int) -> float:
    """Return the share of the characters of all words that n-grams cover which occurred before.

    The first occurrence of an n-gram is no repetition, and a word that several n-grams cover counts once.
    """
    words = text.split()
    seen: set[tuple[str, ...]] = set()
    covered = bytearray(len(words))
    for start in range(len(words) - n + 1):
        gram = tuple(words[start : start + n])
        if gram in seen:
            covered[start : start + n] = b"\x01" * n
        seen.add(gram)
    total = sum(map(len, words))
    return sum(len(word) for word, is_covered in zip(words, covered, strict=True) if is_covered) / total if total else 0
