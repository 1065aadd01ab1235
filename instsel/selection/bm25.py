"""BM25: the prompts that share rare words with the validation prompts, which need no model at all.

The scores are those of the library bm25s, in the variant of Lucene (Robertson and others, TREC-3, 1994; Kamphuis and
others, ECIR 2020; bm25s: arXiv 2407.03618). LESS (arXiv 2402.04333) compares itself with the same retrieval.
"""

import warnings
from array import array
from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from instsel import arrays
from instsel.io.matrix import stack
from instsel.selection.base import ColumnMethod, Requires
from instsel.selection.cost import FLOAT64, MIB, PASS_BYTES, Shape
from instsel.selection.influence import members
from instsel.selection.method_data import PromptData
from instsel.selection.picked import Selection
from instsel.selection.pickers import Picker
from instsel.selection.ranking import ColumnHeads
from instsel.selection.round_robin import pickers_of, take_turns

# Texts that are split into words at a time.
_TEXTS = 1024
# Of a word of the pool, while the index is built: its id, and score, row, column, sort key and order of an entry.
_WORD_BYTES = 40
# Of a row's list of words, beside the words.
_LIST_BYTES = 72
# The id of all words that no validation prompt has: they count for the length of a text, and are looked up by none.
_OTHER = 0


def score(prompts: Iterable[str], validation: Sequence[str], *, k1: float = 1.5, b: float = 0.75) -> np.ndarray:
    """Score every prompt of the pool for every validation prompt.

    The score of document d for query q is the sum over the words of q, repetitions counted, of

        log(1 + (n - df + 0.5) / (df + 0.5)) * tf / (tf + k1 * (1 - b + b * length / mean length))

    with tf how often d has the word and df how many of the n documents have it. A word is a run of at least two
    letters, digits or underscores, in lower case; none is left out as too frequent, which df takes care of in any
    language, and none is reduced to its stem.

    Args:
        prompts: n texts, gone through once. Of each only the ids of its words are kept, 4 bytes a word.
        validation: m texts.
        k1: at least 0; how slowly repetitions of a word count less and less.
        b: from 0 to 1; how far long texts are discounted.

    Returns:
        float32 (n, m), read-only; above `instsel.io.matrix.MAPPED_BYTES` memory-mapped.

    Raises:
        ValueError: something that is no text, no validation prompts, or k1 or b out of range.
    """
    if not (0 <= k1 < np.inf and 0 <= b <= 1):
        raise ValueError(f"k1 must be at least 0 and b from 0 to 1, got k1={k1} and b={b}")
    queries = list(_words("validation", validation))
    if not queries:
        raise ValueError("validation must have at least one prompt, got none")
    vocabulary: dict[str, int] = {"": _OTHER}
    for words in queries:
        for word in words:
            vocabulary.setdefault(word, len(vocabulary))
    documents = [array("i", [vocabulary.get(word, _OTHER) for word in words]) for words in _words("prompts", prompts)]
    # Of texts without words the library would divide by their mean length.
    index = _index(documents, vocabulary, k1, b) if any(documents) else None
    zeros = np.zeros(len(documents), np.float32)
    columns = (
        zeros[None] if index is None else index.get_scores_from_ids([vocabulary[word] for word in words])[None]
        for words in queries
    )
    # A row a query, as they come; seen from the other side, the columns that methods read lie together.
    return stack(columns, len(queries), len(documents)).T


def _words(name: str, texts: Iterable[str]) -> Iterator[list[str]]:
    """Yield the words of each text."""
    import bm25s

    if isinstance(texts, str):
        raise ValueError(f"{name} must be a sequence of texts, got the text {texts!r}")
    remaining = iter(texts)
    first = 0
    while block := list(islice(remaining, _TEXTS)):
        for row, text in enumerate(block, start=first):
            if not isinstance(text, str):
                raise ValueError(f"{name} must be texts, got {text!r} at row {row}")
        yield from bm25s.tokenize(block, stopwords=None, return_ids=False, show_progress=False)
        first += len(block)


def _index(documents: list["array[int]"], vocabulary: dict[str, int], k1: float, b: float) -> Any:
    import bm25s

    index = bm25s.BM25(k1=k1, b=b, method="lucene", backend="numpy")
    index.index((documents, vocabulary), create_empty_token=False, show_progress=False)
    return index


def select(
    prompts: Sequence[str],
    budget: int,
    *,
    validation: Sequence[str],
    targets: Sequence[Hashable] | np.ndarray | None = None,
    k1: float = 1.5,
    b: float = 0.75,
) -> Selection:
    """Pick rows by round robin over the validation prompts, each of which takes the row with the highest score for it.

    Args:
        prompts: n texts of the pool.
        budget: rows wanted; above n gives all n.
        validation: m texts. Those that share no word with the pool have no turn; a warning names them.
        targets: (m,) one label a validation prompt: targets take turns in sorted order, and within a target its
            validation prompts in order. By default the validation prompts take turns.
        k1: see `score`.
        b: see `score`.

    Returns:
        Selection whose scores are those of BM25 and whose `driven_by` is the validation prompt whose turn it was; ties
        go to the lowest row. Once all rows that share a word with a validation prompt are taken, it takes others, in
        their order.

    Raises:
        ValueError: see `score`; labels of the wrong length, that are NaN or do not sort, a negative budget, or no
            validation prompt that shares a word with the pool.
    """
    return choose(score(prompts, validation, k1=k1, b=b), budget, targets)


def choose(scores: np.ndarray, budget: int, targets: Sequence[Hashable] | np.ndarray | None = None) -> Selection:
    """Pick rows as `select` does, by scores (n, m) of `score`."""
    count, columns = arrays.budget(budget, len(scores)), scores.shape[1]
    groups = [np.arange(columns)] if targets is None else members("targets", targets, columns)
    if count == 0:
        return take_turns(scores, groups, count)
    usable = matched(scores)
    groups = [group[usable[group]] for group in groups]
    return take_turns(scores, [group for group in groups if group.size], count)


def pickers(scores: np.ndarray, groups: Sequence[np.ndarray], count: int) -> list[Picker]:
    """Return the turns of each target's prompts for a choice by quotas, by scores (n, m) of `score`.

    Raises:
        ValueError: no prompt of a target shares a word with the pool.
    """
    usable = matched(scores)
    kept = [group[usable[group]] for group in groups]
    for group, left in zip(groups, kept, strict=True):
        if not left.size:
            raise ValueError(
                f"each target must have a validation prompt that shares a word with the pool, none of {group.tolist()} "
                "does"
            )
    return pickers_of(scores, kept, count)


def matched(scores: np.ndarray) -> np.ndarray:
    """Return which validation prompts share a word with the pool, bool (m,); a warning names those that do not.

    Raises:
        ValueError: none does.
    """
    usable = np.array([bool(column.any()) for column in scores.T])
    if not usable.any():
        raise ValueError(f"none of the {len(usable)} validation prompts shares a word with the pool")
    if not usable.all():
        missing = np.flatnonzero(~usable).tolist()
        warnings.warn(f"bm25 leaves out validation prompts that share no word with the pool: {missing}", stacklevel=4)
    return usable


class Bm25(ColumnMethod):
    """Round robin over the words of prompts."""

    requires: ClassVar[Requires] = "prompts"
    array_function = staticmethod(select)

    method: Literal["bm25"] = Field(
        description="rows whose prompts share the rarest words with a validation prompt, validation prompts in turn"
    )
    k1: float = Field(1.5, ge=0, allow_inf_nan=False, description="how slowly repetitions of a word stop to count")
    b: float = Field(0.75, ge=0, le=1, description="how far long prompts are discounted; 0 not at all")

    def scores(self, data: PromptData) -> np.ndarray:
        """Return the scores of the prompts, float32 (n, m), computed once."""
        return data.keep((self.k1, self.b), lambda: score(data.prompts, data.validation, k1=self.k1, b=self.b))

    def select(self, data: PromptData, budget: int, seed: int) -> Selection:
        return choose(self.scores(data), budget, data.column_labels("target"))

    def pickers(self, data: PromptData, groups: Sequence[np.ndarray], count: int) -> list[Picker]:
        return pickers(self.scores(data), groups, count)

    def reasons(self, data: PromptData, selection: Selection, seed: int) -> list[str]:
        return data.example_reasons(selection)

    def working_memory(self, shape: Shape) -> int:
        words = round(shape.rows * (_LIST_BYTES + _WORD_BYTES * shape.tokens))
        # A block of a matrix whose columns lie together.
        blocks = min(128 * MIB, shape.rows * shape.columns * FLOAT64)
        # The index is gone when the columns are ranked.
        return max(words, ColumnHeads.size(shape.columns, round(shape.chosen)) + PASS_BYTES + 2 * blocks)
