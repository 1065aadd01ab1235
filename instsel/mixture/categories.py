"""Categories of the pool: names for clusters, and the division into categories large enough to be measured."""

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from instsel.arrays import labels as unique_labels

# Category of the rows whose original category is too small to be measured.
OTHER = "other"
NAME_LENGTH = 40
NAME_WORDS = 3
ROWS = 50_000
CLUSTER_ROWS = 1_000
TEXT_LENGTH = 1_000
WORD_LENGTH = (3, 24)
MIN_FRACTION = 0.02
MIN_RATIO = 1.5
# Groups of rows whose spread gives the standard errors of gradients.
FOLDS = 8

_MARKS = "".join(char for char in map(chr, range(0x300, 0x11000)) if unicodedata.category(char)[0] == "M")
_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_KANA = "\u3040-\u30ff"
_HANGUL = "\uac00-\ud7a3"
_WORD = re.compile(
    f"(?P<run>(?:(?!\\W)[{_HAN}])+)|(?P<short>(?:(?!\\W)[\u30a1-\u30ff]){{2,}}|[{_HANGUL}]{{2,}})"
    f"|(?P<word>[^\\W\\d_{_HAN}{_KANA}{_HANGUL}](?:[^\\W_{_HAN}{_KANA}{_HANGUL}]|[{_MARKS}])*)"
)


def naming_rows(labels: np.ndarray) -> NDArray[np.int64]:
    """Sample rows to name clusters by: at most 1,000 of each cluster and 50,000 in all, drawn uniformly.

    A proportion among 1,000 rows has a standard error of at most 1.6 %, so the texts of a large pool need not all be
    read.

    Args:
        labels: int (n,), cluster of each row, from 0.

    Returns:
        Row indices, int64, sorted. The same labels give the same rows.

    Raises:
        ValueError: wrong rank or dtype, or a label below 0.
    """
    clusters = np.asarray(labels)
    if clusters.ndim != 1 or clusters.dtype.kind not in "iu" or (clusters < 0).any():
        raise ValueError(
            f"labels have shape {clusters.shape} and type {clusters.dtype}; expected (n,) whole numbers from 0"
        )
    sizes = np.bincount(clusters)
    most = max(1, min(CLUSTER_ROWS, ROWS // max(1, len(sizes))))
    shuffled = np.random.default_rng(0).permutation(len(clusters))
    grouped = shuffled[np.argsort(clusters[shuffled], kind="stable")]
    rank = np.arange(len(clusters)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(grouped[rank < most])


def name_clusters(rows: Iterable[tuple[str, int]]) -> list[str]:
    """Name clusters by their most distinctive words, as in "triangle-frac-angle".

    Class-based TF-IDF over rows: the fraction p of the cluster's rows that have a word, times log(p / q), where q is
    the fraction among the rows of the other clusters. The usual idf, log(1 + 1 / frequency), is above 0 even for words
    that are equally frequent everywhere, and so picks stop words of languages without a stop-word list; log(p / q) does
    not. Words in under 2 % of the rows of a cluster, or under 1.5 times as frequent as in the others, are ignored.

    Rows are read once and only counts are kept. Memory grows with the number of different words, so pass the rows of
    `naming_rows`, not the whole of a large pool. Their order does not matter.

    Chinese text, and Japanese text in Han characters, is split into pairs of characters, as its words are not
    separated. Neither are those of Thai, Lao, Khmer or Burmese, whose runs seldom repeat: their clusters may get a
    number as name.

    Args:
        rows: text (only the first 1,000 characters count) and cluster, from 0, of each row.

    Returns:
        A name for each of the clusters 0 to the largest: at most 40 lower-case letters with their marks, digits and
        hyphens, of any script, all different; "cluster-4" for cluster 4 if it has no distinctive word.
    """
    sizes: Counter[int] = Counter()
    counts: defaultdict[int, Counter[str]] = defaultdict(Counter)
    everywhere: Counter[str] = Counter()
    for text, label in rows:
        words = set(words_of(text))
        sizes[label] += 1
        counts[label].update(words)
        everywhere.update(words)
    names: list[str] = []
    for cluster in range(max(sizes, default=-1) + 1):
        distinctive = _distinctive_words(counts[cluster], sizes[cluster], everywhere, sizes.total())
        names.append(_name(distinctive, f"cluster-{cluster}", names))
    return names


def words_of(text: str) -> list[str]:
    """Return the candidate words at the start of a text: lower-case, without English stop words and numbers."""
    # Imported here, so that reading a study file does not load scikit-learn.
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    words: list[str] = []
    for match in _WORD.finditer(unicodedata.normalize("NFKC", text[:TEXT_LENGTH]).lower()):
        token = match.group()
        if match.lastgroup == "run":
            words.extend(token[start : start + 2] for start in range(len(token) - 1))
        elif match.lastgroup == "short" or (WORD_LENGTH[0] <= len(token) and token not in ENGLISH_STOP_WORDS):
            words.append(token)
    return [token for token in words if len(token) <= WORD_LENGTH[1]]


def _distinctive_words(count: Counter[str], size: int, everywhere: Counter[str], rows: int) -> list[str]:
    """Rank the words of a cluster of `size` rows, the most distinctive first, ties in alphabetical order."""
    least = max(min(2, size), MIN_FRACTION * size)
    scores: dict[str, float] = {}
    for word, has in count.items():
        # Add-one smoothing outside the cluster, as a rare word may be absent there by chance.
        ratio = has / size * (rows - size + 2) / (everywhere[word] - has + 1)
        if has >= least and ratio >= MIN_RATIO:
            scores[word] = has / size * math.log(ratio)
    return sorted(scores, key=lambda word: (-scores[word], word))


def _name(words: list[str], otherwise: str, taken: list[str]) -> str:
    """Join the first words to a name that is not taken; if it is, the next word replaces the last one."""
    candidates = list(words)
    while len(chosen := _first(candidates)) == NAME_WORDS and "-".join(chosen) in taken:
        candidates.remove(chosen[-1])
    name = "-".join(chosen) or otherwise
    count, unique = 1, name
    while unique in taken:
        count += 1
        ending = f"-{count}"
        unique = name[: NAME_LENGTH - len(ending)] + ending
    return unique


def _first(words: list[str]) -> list[str]:
    """Return the first three words that differ and fit into a name."""
    chosen: list[str] = []
    for word in words:
        if len(chosen) == NAME_WORDS:
            break
        if not any(_alike(word, other) for other in chosen) and len("-".join([*chosen, word])) <= NAME_LENGTH:
            chosen.append(word)
    return chosen


def _alike(left: str, right: str) -> bool:
    """Return whether two words are forms of the same word, or two pairs may overlap in a run of Han characters."""
    if len(left) == len(right) == 2:
        return not set(left).isdisjoint(right)
    return left.startswith(right) or right.startswith(left)


@dataclass(frozen=True)
class Categories:
    """The pool, divided into categories.

    Attributes:
        names: of the K measured categories, sorted.
        labels: (n,), category of each row, or "other": texts that rows share, not copies of them.
        held: bool (n,), rows that are held out for evaluation.
        folds: int64 (n,), group of each row among the held-out, or the other, rows of its category.
        merged: categories that were too small and became "other", with their numbers of rows.
    """

    names: Sequence[str]
    labels: NDArray[np.object_]
    held: NDArray[np.bool_]
    folds: NDArray[np.int64]
    merged: Mapping[str, int]


def divide(ids: Sequence[str], labels: Sequence[str] | pa.DictionaryArray, *, least: int, held: int) -> Categories:
    """Divide the pool into categories.

    Args:
        ids: of the n rows; hashes, so that the smallest are a uniform sample.
        labels: (n,), label of each row: texts, or codes of them.
        least: categories with fewer rows are merged into "other".
        held: rows of each category to hold out for evaluation: those with the smallest ids.

    Raises:
        ValueError: fewer than two categories have `least` rows, or `held` leaves no rows to train on.
    """
    if held >= least:
        raise ValueError(f"evaluation_rows is {held} and least_rows {least}; evaluation_rows has to be smaller")
    known, codes = unique_labels("labels", labels)
    sizes = dict(zip(known.tolist(), np.bincount(codes, minlength=len(known)).tolist(), strict=True))
    names = sorted(name for name, size in sizes.items() if size >= least and name != OTHER)
    if len(names) < 2:
        raise ValueError(
            f"{len(names)} of {len(sizes)} categories have {least} rows or more, and a mixture needs two; "
            "lower mixture.least_rows or divide the pool otherwise"
        )
    kept = set(names)
    grouped = np.array([label if label in kept else OTHER for label in known], dtype=object)[codes]
    order = pc.sort_indices(pa.array(ids, pa.string())).to_numpy().astype(np.int64)
    held_out, folds = np.zeros(len(grouped), dtype=bool), np.zeros(len(grouped), dtype=np.int64)
    for name in names:
        rows = order[grouped[order] == name]
        held_out[rows[:held]] = True
        folds[rows[:held]] = np.arange(held) % FOLDS
        folds[rows[held:]] = np.arange(len(rows) - held) % FOLDS
    merged = {name: size for name, size in sorted(sizes.items()) if name not in kept and name != OTHER}
    return Categories(names, grouped, held_out, folds, merged)
