"""Where the picks of a finished study come from, by form of influence, damping and sketch dimension; no training.

    python -m benchmarks.damping STUDY_FOLDER --sources gsm8k mbpp commonsense_mcq [--budget 0.05]

A source that shares a target's distribution should be found: the table counts picks from the named sources. A smaller
dimension is the stored sketch folded: bucket j of d/2 is the sum of buckets j and j + d/2, which is a count sketch too.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from instsel.attribution.kernel import side_by_side, whitening
from instsel.attribution.scores import attribute, second_moment
from instsel.choice.budget import Budget
from instsel.io.store import Folder
from instsel.report.markdown import markdown_table
from instsel.selection import bids, g2is, less
from instsel.study.reader import StudyReader

DAMPINGS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)
FOLDS = (1, 2, 4, 8)
FOLDED_DAMPINGS = (0.1, 1.0)


def main(argv: Sequence[str] | None = None) -> None:
    """Selects again and again, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path, help="folder of a study whose features are done")
    parser.add_argument("--sources", nargs="+", required=True, help="sources that share a target's distribution")
    parser.add_argument("--budget", type=float, default=0.05, help="share of the pool")
    options = parser.parse_args(argv)
    inputs = StudyReader(Folder.at(options.study))
    columns = inputs.columns()
    shards = [inputs.gradients.pool(shard) for shard in inputs.shards]
    pool = [np.concatenate([features[c] for _, features in shards]) for c in range(len(inputs.weights))]
    validation = inputs.gradients.validation(columns)
    source = dict(zip(inputs.index["id"].to_pylist(), inputs.index["source"].to_pylist(), strict=True))
    near = np.array([source[row] in options.sources for ids, _ in shards for row in ids])
    count = int(Budget(options.budget).of(inputs.prepared.pool).amount)
    labels = np.asarray(columns["subtask"].to_pylist())
    forms = [(1, None), *((1, damping) for damping in DAMPINGS)]
    forms += [(fold, damping) for fold in FOLDS[1:] for damping in (None, *FOLDED_DAMPINGS)]
    body = []
    for fold, damping in forms:
        train, targets = [_folded(rows, fold) for rows in pool], [_folded(rows, fold) for rows in validation]
        picks = _picks(train, targets, inputs.weights, damping, count, labels)
        counts = [f"{int(near[rows].sum())} of {len(rows)}" for rows in picks.values()]
        body.append([str(train[0].shape[1]), "cosine" if damping is None else f"fisher, {damping:g}", *counts])
    print(f"Picks from {', '.join(options.sources)}, which are {near.mean():.0%} of the pool's {len(near):,} rows:\n")
    print(markdown_table(["d", "influence", "less", "bids", "g2is"], body))


def _folded(rows: np.ndarray, fold: int) -> np.ndarray:
    folded: np.ndarray = rows.astype(np.float32).reshape(len(rows), fold, -1).sum(axis=1)
    return folded


def _picks(
    train: list[np.ndarray],
    targets: list[np.ndarray],
    weights: list[float],
    damping: float | None,
    count: int,
    labels: np.ndarray,
) -> dict[str, np.ndarray]:
    matrix = attribute(train, targets, weights, damping=damping)
    factors = None
    if damping is not None:
        factors = [whitening(second_moment(rows) / len(rows), damping) for rows in train]
    features, aims = (side_by_side(rows, weights, factors) for rows in (train, targets))
    return {
        "less": less.select(matrix, count, subtasks=labels).indices,
        "bids": bids.select(matrix, count).indices,
        "g2is": g2is.select(features, aims, count).indices,
    }


if __name__ == "__main__":
    main()
