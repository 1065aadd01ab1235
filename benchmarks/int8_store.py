"""What keeping features as int8 changes of the attribution and the selections of a finished study.

    python -m benchmarks.int8_store STUDY_FOLDER [--budget 0.1]

The study's float16 features are kept again as int8, attribution and selections are made from both, and a Markdown table
tells how they differ. A third store says what to compare that with: float16 rounded once more, on another grid.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from instsel.arrays import unit_rows
from instsel.attribution.scores import attribute
from instsel.gradients.features import Storage, bytes_per_row, feature_table, read_features
from instsel.io.store import Folder
from instsel.report.markdown import markdown_table
from instsel.selection import bids, less

# Not a power of two, so that rows times this have to be rounded to float16 again.
OTHER_GRID = np.float32(1.37)


def main(argv: Sequence[str] | None = None) -> None:
    """Reads a study's features, keeps them again in the other ways and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "study", type=Path, help="folder of a study whose attribution/cosine is done, of float16 features"
    )
    parser.add_argument("--budget", type=float, default=0.1, help="share of the pool that the methods choose")
    arguments = parser.parse_args(argv)
    study = Folder.at(arguments.study)
    stage = study / "attribution" / "cosine"
    manifest, columns = stage.read_json("manifest.json")["result"], stage.read_table("columns.parquet")
    subtasks = np.asarray(columns["subtask"].to_pylist())
    checkpoints = list((study / "features").read_json("manifest.json")["result"]["checkpoints"])
    pool = [_pool(study / "features" / name / "pool", manifest["shards"]) for name in checkpoints]
    targets = [_rows(study / "features" / name / "validation", columns["id"].to_pylist()) for name in checkpoints]
    count = int(round(arguments.budget * manifest["rows"], 6))

    def attribution(kept: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        return attribute([kept(rows) for rows in pool], [kept(rows) for rows in targets], manifest["weights"])

    exact = attribution(lambda rows: rows)
    chosen = _selections(exact, count, subtasks)
    (rows, targeted), dim = exact.shape, pool[0].shape[1]
    print(f"{rows} pool rows x {targeted} validation rows, {len(checkpoints)} checkpoints, d = {dim}, {count} chosen")
    print(f"attributions: mean {exact.mean():.4f}, standard deviation {exact.std():.4f}")
    print(f"a sketch's own error of a cosine is about 1 / sqrt(d) = {dim**-0.5:.4f}")
    print(f"two random draws of {count} rows have {count / rows:.1%} in common\n")
    body = []
    stores: list[tuple[str, Storage, Callable[[np.ndarray], np.ndarray]]]
    stores = [("float16 again", "float16", _float16_again), ("int8", "int8", _int8)]
    for name, storage, kept in stores:
        stored = attribution(kept)
        overlap = [_overlap(chosen[method], picks) for method, picks in _selections(stored, count, subtasks).items()]
        body.append([name, str(bytes_per_row(dim, storage)), *_differences(exact, stored), *overlap])
    header = ["store", "bytes a row", "largest difference", "rms difference", "rank correlation, mean (least)"]
    print(markdown_table([*header, *(f"{method}: common rows (Jaccard)" for method in chosen)], body))


def _pool(folder: Folder, shards: list[str]) -> np.ndarray:
    return np.concatenate([read_features(folder.read_table(f"{shard}.arrow"))[1] for shard in shards])


def _rows(folder: Folder, ids: list[str]) -> np.ndarray:
    features: dict[str, np.ndarray] = {}
    for name in folder.names():
        if name.endswith(".arrow"):
            features |= dict(zip(*read_features(folder.read_table(name)), strict=True))
    return np.stack([features[row] for row in ids])


def _int8(rows: np.ndarray) -> np.ndarray:
    return _through(rows, "int8")


def _float16_again(rows: np.ndarray) -> np.ndarray:
    return (unit_rows(rows) * OTHER_GRID).astype(np.float16)


def _through(rows: np.ndarray, storage: Storage) -> np.ndarray:
    """Rows as a shard gives them back."""
    ids = [str(row) for row in range(len(rows))]
    return read_features(feature_table(ids, unit_rows(rows), np.ones(len(rows)), {}, storage))[1]


def _selections(attribution: np.ndarray, count: int, subtasks: np.ndarray) -> dict[str, set[int]]:
    return {
        "less": set(less.select(attribution, count, subtasks=subtasks).indices.tolist()),
        "bids": set(bids.select(attribution, count).indices.tolist()),
    }


def _differences(exact: np.ndarray, stored: np.ndarray) -> list[str]:
    difference = stored.astype(np.float64) - exact
    correlations = [np.corrcoef(_ranks(a), _ranks(b))[0, 1] for a, b in zip(exact.T, stored.T, strict=True)]
    return [
        f"{np.abs(difference).max():.5f}",
        f"{np.sqrt(np.mean(difference**2)):.6f}",
        f"{np.mean(correlations):.6f} ({np.min(correlations):.6f})",
    ]


def _ranks(values: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(values, kind="stable"), kind="stable")


def _overlap(ours: set[int], theirs: set[int]) -> str:
    common = len(ours & theirs)
    return f"{common} of {len(ours)} ({common / len(ours | theirs):.3f})"


if __name__ == "__main__":
    main()
