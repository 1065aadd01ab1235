"""The filter by language, as py3langid tells it: a model that comes with the package, without the network."""

from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from instsel.filters.base import FilterRow, TextFilter

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

LOOKED_AT = 10_000
"""Characters of a text by which its language is told."""

NO_LANGUAGE = "zxx"
"""Of texts without words, as ISO 639-2 has it: formulas, code."""


class Language(TextFilter):
    """Keep rows in some languages."""

    filter: Literal["language"] = Field(description="language that a row is written in")
    languages: list[str] = Field(min_length=1, description="languages that are kept, codes of ISO 639: en, de, zh")
    confidence: float = Field(
        0.5, ge=0, le=1, description="confidence below which a language counts as not told, as of short texts and code"
    )
    unsure: Literal["keep", "reject"] = Field("keep", description="what happens to rows whose language is not told")

    @field_validator("languages")
    @classmethod
    def _check(cls, languages: list[str]) -> list[str]:
        known = _identifier().labels
        for language in languages:
            if language not in known:
                raise ValueError(f"{language!r} is not one of the languages that can be told: {', '.join(known)}")
        return languages

    def reject(self, row: FilterRow) -> str | None:
        language, confidence = _identifier().classify(row.text(self.of)[:LOOKED_AT])
        if confidence < self.confidence or language == NO_LANGUAGE:
            return f"the language of {self.what} cannot be told" if self.unsure == "reject" else None
        return None if language in self.languages else f"{self.what} is written in {language!r}"


@lru_cache(maxsize=1)
def _identifier() -> "LanguageIdentifier":
    """Load the model once a process: a third of a second, and some 110 MB of memory."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
