"""Run arms over seeds and worlds; what is done already is left as it is.

python -m benchmarks.skills --cache FOLDER --out FILE.parquet                      all arms, 20 seeds, near and far
python -m benchmarks.skills --cache FOLDER --out FILE.parquet --arms random ideal --seeds 3 --world near
python -m benchmarks.skills --cache FOLDER --out FILE.parquet --table benchmarks/results/skills.md
"""

import argparse
import os
import time
from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from benchmarks.skills.arms import ARMS, Signals
from benchmarks.skills.frozen import FROZEN, Settings
from benchmarks.skills.model import encode, exact_match, load_base, tune
from benchmarks.skills.table import write_table
from benchmarks.skills.world import DISTANCES, KINDS, Distance, World, make_world
from instsel.errors import InputError

SCHEMA = pa.schema(
    [
        ("world", pa.string()),
        ("arm", pa.string()),
        ("seed", pa.int64()),
        ("settings", pa.string()),
        ("accuracy", pa.float64()),  # mean over targets, exact match
        ("accuracy_by_target", pa.map_(pa.string(), pa.float64())),
        ("rows", pa.int64()),  # that the arm took
        ("recall", pa.float64()),  # of the helpful rows that fit into the budget
        *((kind, pa.float64()) for kind in KINDS),  # shares of the rows taken
        ("choice_seconds", pa.float64()),  # of the method, once it has what it reads
        ("tuning_seconds", pa.float64()),  # training and test
        ("signal_seconds", pa.map_(pa.string(), pa.float64())),  # of what arms of this seed have read so far
    ]
)
"""One row for each world, arm and seed."""
BASE_ARM = "base"
"""The base model without fine-tuning, whose lines have no rows taken."""


class Results:
    """A Parquet file of results, written whole after every arm so that a killed run loses one."""

    def __init__(self, path: Path, settings: Settings) -> None:
        """Read the results that are there.

        Raises:
            InputError: they are of other settings.
        """
        self.path, self.digest = path, settings.digest
        self.lines: list[dict[str, Any]] = pq.read_table(path, schema=SCHEMA).to_pylist() if path.exists() else []
        others = {line["settings"] for line in self.lines} - {self.digest}
        if others:
            raise InputError(f"--out: {path} has results of other settings ({others.pop()}); name another file")

    def done(self, distance: Distance, seed: int) -> set[str]:
        """Return the arms that have a line."""
        return {line["arm"] for line in self.lines if (line["world"], line["seed"]) == (distance, seed)}

    def add(self, line: dict[str, Any]) -> None:
        """Append a line."""
        self.lines.append({**line, "settings": self.digest})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        written = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        pq.write_table(pa.Table.from_pylist(self.lines, schema=SCHEMA), written)
        written.replace(self.path)


class Trial:
    """A world of one seed, in which arms choose rows, train on them and are tested."""

    def __init__(self, base: nn.Module, settings: Settings, distance: Distance, seed: int) -> None:
        self.base, self.settings, self.distance, self.seed = base, settings, distance, seed

    @cached_property
    def world(self) -> World:
        """The rows."""
        return make_world(self.settings.world, self.distance, self.seed)

    @cached_property
    def signals(self) -> Signals:
        """What methods read of them."""
        return Signals(self.world, self.base, self.settings.signals, self.settings.rows, self.seed)

    def run(self, arm: str) -> dict[str, Any]:
        """Run an arm; return its line of the results."""
        if arm == BASE_ARM:
            return self._line(arm, self._accuracy(self.base), np.empty(0, np.int64))
        signals, waited, began = self.signals, sum(self.signals.seconds.values()), time.perf_counter()
        rows = ARMS[arm](signals)
        choice = time.perf_counter() - began - (sum(signals.seconds.values()) - waited)
        began = time.perf_counter()
        model, _ = tune(self.base, [signals.pool[row] for row in rows.tolist()], self.settings.tune, self.seed)
        accuracy = self._accuracy(model)
        seconds = {"choice_seconds": choice, "tuning_seconds": time.perf_counter() - began}
        return {**self._line(arm, accuracy, rows), **seconds, "signal_seconds": dict(signals.seconds)}

    def _accuracy(self, model: nn.Module) -> dict[str, float]:
        skills = np.array([row.skill for row in self.world.test])
        right = exact_match(model, [encode(row) for row in self.world.test])
        return {target: float(right[skills == target].mean()) for target in self.settings.world.targets}

    def _line(self, arm: str, accuracy: dict[str, float], rows: np.ndarray) -> dict[str, Any]:
        helpful = self.world.helpful
        shares: dict[str, float | None] = {
            kind: float(self.world.of_kind(kind)[rows].mean()) if len(rows) else None for kind in KINDS
        }
        return {
            "world": self.distance,
            "arm": arm,
            "seed": self.seed,
            "accuracy": float(np.mean(list(accuracy.values()))),
            "accuracy_by_target": accuracy,
            "rows": len(rows),
            "recall": float(helpful[rows].sum() / min(helpful.sum(), self.settings.rows)),
            **shares,
        }


def run_arms(
    results: Results,
    base: nn.Module,
    settings: Settings,
    distances: Sequence[Distance],
    seeds: Sequence[int],
    arms: Collection[str],
) -> None:
    """Run the arms that the results lack, seed by seed, so that few seeds of all arms are there early."""
    for seed in seeds:
        for distance in distances:
            done = results.done(distance, seed)
            trial = Trial(base, settings, distance, seed)
            for arm in [BASE_ARM, *arms]:
                if arm not in done:
                    results.add(trial.run(arm))


def main(arguments: Sequence[str] | None = None, settings: Settings = FROZEN) -> None:
    """Run what is missing, and write the table if it is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, help="worlds drawn anew, from seed 0")
    parser.add_argument(
        "--arms", nargs="+", choices=list(ARMS), default=list(ARMS), metavar="ARM", help=", ".join(ARMS)
    )
    parser.add_argument("--world", choices=DISTANCES, nargs="+", default=list(DISTANCES))
    parser.add_argument("--cache", type=Path, required=True, help="folder that keeps the base model")
    parser.add_argument("--out", type=Path, required=True, help="results, Parquet")
    parser.add_argument("--table", type=Path, help="also write what the results come to, Markdown")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    results = Results(given.out, settings)
    base = load_base(settings.base, settings.world.skills, given.cache)
    run_arms(results, base, settings, given.world, range(given.seeds), given.arms)
    if given.table:
        write_table(given.out, given.table)
