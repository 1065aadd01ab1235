"""What each selection is made of, against the pool, and how much two selections share."""

from typing import Any

import numpy as np

from instsel.report.facts.pool import Facet, Pool

MOST_NAMES = 24
REST = "all others"


def composition(pool: Pool) -> dict[str, Any]:
    """Rows by source, task, category and length: facet -> names, and their counts in the pool and each selection.

    The names that hold the most rows are kept, the others become one.
    """
    found = {}
    for name, whole in pool.facets.items():
        facet = _used(whole) if name == "length" else _largest(whole, pool)
        if len(facet.names) < 2 and name != "source":
            continue
        found[name] = {
            "names": facet.names,
            "pool": _counts(facet, None),
            "selections": {selection: _counts(facet, places) for selection, places in pool.chosen.items()},
        }
    return found


def lengths(pool: Pool) -> dict[str, Any]:
    """Tokens of a row: mean and quartiles of the pool and of each selection."""
    tokens = pool.index["tokens"].to_numpy()
    parts = {"pool": tokens, **{name: tokens[places] for name, places in pool.chosen.items() if len(places)}}
    return {
        name: {
            "rows": len(values),
            "tokens": int(values.sum(dtype=np.int64)),
            "mean": float(values.mean()),
            "quartiles": [float(one) for one in np.percentile(values, [25, 50, 75])],
        }
        for name, values in parts.items()
        if len(values)
    }


def overlap(pool: Pool) -> dict[str, Any]:
    """Of the rows of each selection, the share that another one has too: names, and shares (selection, other)."""
    names = list(pool.chosen)
    sets = [np.unique(places) for places in pool.chosen.values()]
    shared = np.zeros((len(names), len(names)))
    member = np.zeros(pool.rows, dtype=bool)
    for row, own in enumerate(sets):
        member[own] = True
        shared[row] = [member[other].sum() / max(1, len(own)) for other in sets]
        member[own] = False
    return {"names": names, "shares": shared.tolist()}


def _used(facet: Facet) -> Facet:
    """The names from the first to the last that some row has."""
    first, last = int(facet.codes.min(initial=len(facet.names) - 1)), int(facet.codes.max(initial=0))
    return Facet(facet.names[first : last + 1], facet.codes - first)


def _largest(facet: Facet, pool: Pool) -> Facet:
    """The names with the most rows, in the pool or in any selection, the most first."""
    size = len(facet.names)
    shares = [np.bincount(facet.codes, minlength=size) / max(1, pool.rows)]
    for places in pool.chosen.values():
        shares.append(np.bincount(facet.codes[places], minlength=size) / max(1, len(places)))
    used = np.flatnonzero(shares[0])
    kept = used[np.argsort(-np.max(shares, axis=0)[used], kind="stable")][:MOST_NAMES]
    kept = kept[np.argsort(-shares[0][kept], kind="stable")]
    number = np.full(size, len(kept), dtype=np.int64)
    number[kept] = np.arange(len(kept))
    names = [facet.names[one] for one in kept.tolist()]
    return Facet(names if len(kept) == len(used) else [*names, REST], number[facet.codes])


def _counts(facet: Facet, places: np.ndarray | None) -> list[int]:
    codes = facet.codes if places is None else facet.codes[places]
    counts: list[int] = np.bincount(codes, minlength=len(facet.names)).tolist()
    return counts
