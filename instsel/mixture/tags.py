"""From the free tags that a model gives rows to categories."""

import unicodedata
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import AgglomerativeClustering

from instsel import checks
from instsel.selection.similarity import embedding_rows, unit_rows

TAG_LENGTH = 60
SAME = 0.75
EXACT_TAGS = 5_000

Embed = Callable[[list[str]], np.ndarray]


def clean_tag(text: str) -> str:
    """A tag as it is compared: lower-case, single spaces, no punctuation at its ends, at most 60 characters.

    "+" and "#" stay at the end, for C++ and C#; an underscore is a space. Cleaning a clean tag changes nothing.

    Returns:
        The tag; "" if nothing is left.
    """
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower())
    spaced = "".join(" " if char == "_" or unicodedata.category(char)[0] in "ZC" else char for char in plain)
    return _trimmed(_trimmed(" ".join(spaced.split()))[:TAG_LENGTH])


def merge_tags(tags: Mapping[str, int], embed: Embed, most: int) -> dict[str, str]:
    """Divide tags into at most `most` categories, each named after its tag of the most rows.

    First tags that mean the same are merged: average linkage on cosines, down to 0.75 (with all-MiniLM-L6-v2 all of 20
    pairs such as "algebra" and "geometry" are below, and 24 of 25 such as "math" and "mathematics" above). Then, while
    categories are too many, that of the fewest rows joins the one most like it, by the cosine of the means over their
    rows. Small tags of one topic so gather to a category of their own before they reach a large one, which gave purer
    categories than sending every small one to a large one at once, and much purer ones than further average linkage,
    which lets the large ones merge. There is no category for the rest: a tag like no other joins what is nearest.

    Of more than 5,000 tags those of the most rows are merged; each of the others goes with the nearest of these. That
    takes about 600 MB.

    Args:
        tags: rows of every tag, at least 1 each. Their order does not matter.
        embed: gives (n, e) embeddings of n tags, any real dtype; asked for at most 5,000 at a time.
        most: categories, at least 1.

    Returns:
        The category of every tag. Ties go to the tag of more rows, then to the first in the alphabet.

    Raises:
        ValueError: a tag without rows, `most` below 1, embeddings of a wrong shape or that are not finite.
    """
    limit = checks.whole_number("most", most, least=1)
    for tag, rows in tags.items():
        checks.whole_number(f"rows of the tag {tag!r}", rows, least=1)
    names = sorted(tags, key=lambda tag: (-tags[tag], tag))
    if not names:
        return {}
    kept = names[:EXACT_TAGS]
    units = _embedded(kept, embed)
    weights = np.array([tags[tag] for tag in kept], dtype=np.int64)
    place = {tag: number for number, tag in enumerate(kept)}
    for first in range(EXACT_TAGS, len(names), EXACT_TAGS):
        part = names[first : first + EXACT_TAGS]
        nearest = _cosines(_embedded(part, embed), units).argmax(axis=1)
        np.add.at(weights, nearest, [tags[tag] for tag in part])
        place.update(zip(part, nearest.tolist(), strict=True))
    category = _fold(_same(units), units, weights, limit)
    return {tag: kept[category[number]] for tag, number in place.items()}


def _trimmed(text: str) -> str:
    """Without what is neither letter, mark nor number at its ends, "+" and "#" at the end excepted."""
    places = [place for place, char in enumerate(text) if unicodedata.category(char)[0] in "LN"]
    if not places:
        return ""
    end = places[-1] + 1
    while end < len(text) and (text[end] in "+#" or unicodedata.category(text[end])[0] == "M"):
        end += 1
    return text[places[0] : end]


def _embedded(tags: list[str], embed: Embed) -> NDArray[np.float64]:
    """Unit rows (n, e); zeros stay zero, and are like nothing."""
    rows = embedding_rows("embeddings of tags", embed(tags))
    if len(rows) != len(tags):
        raise ValueError(f"embed gave {len(rows)} rows for {len(tags)} tags; expected one a tag")
    return unit_rows(rows)


def _cosines(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float32]:
    # Rounded: products of equal rows differ in their last digits by where the rows lie in memory.
    found: NDArray[np.float32] = (one @ other.T).astype(np.float32)
    return found


def _same(units: NDArray[np.float64]) -> NDArray[np.int64]:
    """Groups of tags that mean the same: for each tag the first one of its group, int64 (n,)."""
    if len(units) == 1:
        return np.zeros(1, dtype=np.int64)
    linkage = AgglomerativeClustering(
        n_clusters=None, metric="precomputed", linkage="average", distance_threshold=1 - SAME
    )
    labels = linkage.fit_predict(np.maximum(1 - _cosines(units, units), 0))
    _, first, group = np.unique(labels, return_index=True, return_inverse=True)
    found: NDArray[np.int64] = first[group]
    return found


def _fold(
    groups: NDArray[np.int64], units: NDArray[np.float64], weights: NDArray[np.int64], most: int
) -> NDArray[np.int64]:
    """Let the smallest category join the one most like it until `most` are left.

    Args:
        groups: int64 (n,), first tag of each tag's group; tags stand by falling rows.
        units: (n, e) embeddings.
        weights: int64 (n,), rows of each tag.
        most: categories to be left.

    Returns:
        int64 (n,), first tag of each tag's category.
    """
    found = groups.copy()
    size, total = np.zeros(len(groups), dtype=np.int64), np.zeros_like(units)
    np.add.at(size, groups, weights)
    np.add.at(total, groups, weights[:, None] * units)
    means, standing = unit_rows(total), size > 0
    for _ in range(int(standing.sum()) - most):
        # Of equally small ones the last.
        smallest = len(size) - 1 - int(np.where(standing, size, size.sum() + 1)[::-1].argmin())
        standing[smallest] = False
        likeness = _cosines(means, means[smallest])
        joined = int(np.where(standing, likeness, -np.inf).argmax())
        keeps, goes = min(joined, smallest), max(joined, smallest)
        found[found == goes] = keeps
        size[keeps] += size[goes]
        total[keeps] += total[goes]
        means[keeps] = unit_rows(total[keeps : keeps + 1])[0]
        standing[keeps], standing[goes] = True, False
    return found
