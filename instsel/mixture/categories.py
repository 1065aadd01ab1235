"""Categories of the pool: their names, and which have enough rows to be measured."""

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# The category of rows whose own has too few to be measured.
OTHER = "other"
NAME_LENGTH = 40
NAME_WORDS = 3
ROWS = 50_000
CLUSTER_ROWS = 1_000
TEXT_LENGTH = 1_000
WORD_LENGTH = (3, 24)
SHARE = 0.02
RATIO = 1.5

_MARKS = "".join(char for char in map(chr, range(0x300, 0x11000)) if unicodedata.category(char)[0] == "M")
_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_KANA = "\u3040-\u30ff"
_HANGUL = "\uac00-\ud7a3"
_WORD = re.compile(
    f"(?P<run>(?:(?!\\W)[{_HAN}])+)|(?P<short>(?:(?!\\W)[\u30a1-\u30ff]){{2,}}|[{_HANGUL}]{{2,}})"
    f"|(?P<word>[^\\W\\d_{_HAN}{_KANA}{_HANGUL}](?:[^\\W_{_HAN}{_KANA}{_HANGUL}]|[{_MARKS}])*)"
)


def naming_rows(labels: np.ndarray) -> NDArray[np.int64]:
    """Choose rows to name clusters by: of each cluster at most 1,000, of all together 50,000, drawn uniformly.

    A share of 1,000 rows is sure to 1.6 % (one standard error), so the texts of a large pool need not all be read.

    Args:
        labels: int (n,), cluster of each row, from 0.

    Returns:
        int64, sorted. The same labels give the same rows.

    Raises:
        ValueError: wrong rank or dtype, or a label below 0.
    """
    of = np.asarray(labels)
    if of.ndim != 1 or of.dtype.kind not in "iu" or (of < 0).any():
        raise ValueError(f"labels have shape {of.shape} and type {of.dtype}; expected (n,) whole numbers from 0")
    sizes = np.bincount(of)
    most = max(1, min(CLUSTER_ROWS, ROWS // max(1, len(sizes))))
    shuffled = np.random.default_rng(0).permutation(len(of))
    grouped = shuffled[np.argsort(of[shuffled], kind="stable")]
    place = np.arange(len(of)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(grouped[place < most])


def name_clusters(rows: Iterable[tuple[str, int]]) -> list[str]:
    """Name clusters by their most telling words, as "triangle-frac-angle".

    Class-based TF-IDF over rows: the share p of the cluster's rows that have a word, times log(p / q), where q is the
    share of the other clusters' rows that have it. The usual idf, log(1 + 1 / frequency), is above 0 for words that
    are as frequent everywhere, and so takes stop words of languages that no list covers; this one is not. Words in
    under 2 % of the rows of a cluster, or under 1.5 times as frequent as in the others, tell nothing.

    Rows are read once and only counts are kept; their memory grows with the different words, so give the rows of
    `naming_rows`, not the whole of a large pool. Their order does not matter.

    Chinese words and Japanese words in Han characters are taken for pairs of characters, as nothing divides them; runs
    of Thai, Lao, Khmer or Burmese, which are not divided either, seldom repeat, and their clusters may get a number.

    Args:
        rows: text, of which the first 1,000 characters count, and cluster of each row, from 0.

    Returns:
        A name for each of the clusters 0 to the largest: at most 40 lower-case letters with their marks, digits and
        hyphens, of any script, no two alike; "cluster-4" for cluster 4 if it has no telling word.
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
    for number in range(max(sizes, default=-1) + 1):
        telling = _telling(counts[number], sizes[number], everywhere, sizes.total())
        names.append(_name(telling, f"cluster-{number}", names))
    return names


def words_of(text: str) -> list[str]:
    """Words of the beginning of a text that may name something: lower-case, without English stop words and numbers."""
    # Here, so that reading a study file does not load scikit-learn.
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    found: list[str] = []
    for match in _WORD.finditer(unicodedata.normalize("NFKC", text[:TEXT_LENGTH]).lower()):
        token = match.group()
        if match.lastgroup == "run":
            found.extend(token[place : place + 2] for place in range(len(token) - 1))
        elif match.lastgroup == "short" or (WORD_LENGTH[0] <= len(token) and token not in ENGLISH_STOP_WORDS):
            found.append(token)
    return [token for token in found if len(token) <= WORD_LENGTH[1]]


def _telling(count: Counter[str], size: int, everywhere: Counter[str], rows: int) -> list[str]:
    """Words of a cluster of `size` rows, the most telling first; of equal ones the first in the alphabet."""
    least = max(min(2, size), SHARE * size)
    scores: dict[str, float] = {}
    for word, has in count.items():
        # One row with and one without it are added elsewhere: nothing is told by what is not there by chance.
        ratio = has / size * (rows - size + 2) / (everywhere[word] - has + 1)
        if has >= least and ratio >= RATIO:
            scores[word] = has / size * math.log(ratio)
    return sorted(scores, key=lambda word: (-scores[word], word))


def _name(words: list[str], otherwise: str, taken: list[str]) -> str:
    """A name of the first words that is not taken; if others have all of it, the next word stands for the last."""
    left = list(words)
    while len(chosen := _first(left)) == NAME_WORDS and "-".join(chosen) in taken:
        left.remove(chosen[-1])
    name = "-".join(chosen) or otherwise
    number, found = 1, name
    while found in taken:
        number += 1
        ending = f"-{number}"
        found = name[: NAME_LENGTH - len(ending)] + ending
    return found


def _first(words: list[str]) -> list[str]:
    """The first three words that differ and fit into a name."""
    chosen: list[str] = []
    for word in words:
        if len(chosen) == NAME_WORDS:
            break
        if not any(_alike(word, other) for other in chosen) and len("-".join([*chosen, word])) <= NAME_LENGTH:
            chosen.append(word)
    return chosen


def _alike(one: str, other: str) -> bool:
    """Whether two words are forms of one, or two pairs may be of one run of Han characters."""
    if len(one) == len(other) == 2:
        return not set(one).isdisjoint(other)
    return one.startswith(other) or other.startswith(one)


# Groups of rows whose spread tells the standard errors of gradients.
FOLDS = 8


@dataclass(frozen=True)
class Categories:
    """The pool, divided.

    Attributes:
        names: of the categories that are measured, K of them, sorted.
        labels: (n,), category of each row, or "other".
        held: bool (n,), rows that are only evaluated on.
        folds: int64 (n,), group of each row among those of its category that are held, or that are not.
        gathered: categories that were too small and count to "other", with their rows.
    """

    names: Sequence[str]
    labels: NDArray[np.str_]
    held: NDArray[np.bool_]
    folds: NDArray[np.int64]
    merged: Mapping[str, int]


def divide(ids: Sequence[str], labels: Sequence[str], *, least: int, held: int) -> Categories:
    """Divide the pool into categories.

    Args:
        ids: of the rows, n of them; hashes, so that the smallest are a uniform sample.
        labels: (n,), what each row was tagged with.
        least: a category with fewer rows counts to "other".
        held: rows of each category to evaluate on: those with the smallest ids.

    Raises:
        ValueError: fewer than two categories have `least` rows, or `held` leaves none of them to train on.
    """
    if held >= least:
        raise ValueError(f"evaluation_rows is {held} and least_rows {least}; keep fewer rows than the least has")
    sizes = Counter(labels)
    names = sorted(name for name, rows in sizes.items() if rows >= least and name != OTHER)
    if len(names) < 2:
        raise ValueError(
            f"{len(names)} of {len(sizes)} categories have {least} rows or more, and a mixture needs two; "
            "lower mixture.least_rows or divide the pool otherwise"
        )
    kept = set(names)
    grouped = np.array([label if label in kept else OTHER for label in labels], dtype=np.str_)
    order = np.argsort(np.asarray(ids), kind="stable")
    apart, folds = np.zeros(len(grouped), dtype=bool), np.zeros(len(grouped), dtype=np.int64)
    for name in names:
        places = order[grouped[order] == name]
        apart[places[:held]] = True
        folds[places[:held]] = np.arange(held) % FOLDS
        folds[places[held:]] = np.arange(len(places) - held) % FOLDS
    merged = {name: rows for name, rows in sorted(sizes.items()) if name not in kept and name != OTHER}
    return Categories(names, grouped, apart, folds, merged)
