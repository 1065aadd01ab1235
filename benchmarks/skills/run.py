"""Run arms over seeds and worlds; what is done already is left as it is.

python -m benchmarks.skills run --work FOLDER                                    all arms, 20 seeds, near and far
python -m benchmarks.skills run --work FOLDER --evidence OTHER --arms random ideal --seeds 3 --worlds near
python -m benchmarks.skills separation --work FOLDER --seeds 4                   what forms of influence tell apart
python -m benchmarks.skills table                                                writes the tables of the README
"""

import argparse
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cached_property, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.skills.arms import ARMS, BASE, NAMES, VALIDATION_ONLY
from benchmarks.skills.frozen import FROZEN, Settings
from benchmarks.skills.ledger import Key, Ledger
from benchmarks.skills.model import encode, exact_match, load_base, tune
from benchmarks.skills.separation import write_separations
from benchmarks.skills.signals import Signals
from benchmarks.skills.table import write_table
from benchmarks.skills.world import DISTANCES, KINDS, Distance, World, make_world
from instsel.data.batching import Example

HERE = Path(__file__).parent
EVIDENCE = HERE.parent / "evidence" / "skills"


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

    @cached_property
    def test(self) -> list[Example]:
        """The test rows, encoded."""
        return [encode(row) for row in self.world.test]

    def run(self, arm: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Run an arm; return its line of the results, and what it took."""
        counted = set(self.signals.seconds)
        waited, began = sum(self.signals.seconds.values()), time.process_time()
        # In rising order, so that the same rows are the same training whatever method chose them.
        rows = np.sort(ARMS[arm](self.signals)) if arm in ARMS else np.empty(0, np.int64)
        chosen = time.process_time()
        correct = exact_match(self._trained(arm, rows), self.test)
        took = {
            ("choice", arm): chosen - began - (sum(self.signals.seconds.values()) - waited),
            ("training", arm): time.process_time() - chosen,
        }
        took |= {("signal", name): value for name, value in self.signals.seconds.items() if name not in counted}
        seconds = [
            {"world": self.distance, "seed": self.seed, "part": part, "name": name, "cpu_seconds": round(value, 3)}
            for (part, name), value in took.items()
        ]
        return self._line(rows, correct), seconds

    def _trained(self, arm: str, rows: np.ndarray) -> nn.Module:
        if arm == BASE:
            return self.base
        examples = [self.signals.pool[row] for row in rows.tolist()]
        if arm == VALIDATION_ONLY:
            # Again and again, so that it takes as many steps as the others.
            known = self.signals.validation
            examples = [known[index % len(known)] for index in range(self.settings.rows)]
        return tune(self.base, examples, self.settings.tune, self.seed)[0]

    def _line(self, rows: np.ndarray, correct: np.ndarray) -> dict[str, Any]:
        world = self.world
        shares: dict[str, float | None] = dict.fromkeys(("recall", "of_good_skill", *KINDS))
        if len(rows):
            helpful = world.helpful
            shares["recall"] = float(helpful[rows].sum() / min(helpful.sum(), self.settings.rows))
            shares["of_good_skill"] = float(world.of_good_skill[rows].mean())
            shares |= {kind: float(world.of_kind(kind)[rows].mean()) for kind in KINDS}
        # All targets have the same number of test rows, so that this is the mean over targets.
        return {"accuracy": float(correct.mean()), **shares, "rows": rows.tolist(), "correct": correct.tolist()}


def run_trial(ledger: Ledger, settings: Settings, work: Path, keys: Sequence[Key]) -> None:
    """Run arms of one world and seed and keep the result of each."""
    # One thread, and bits do not depend on the number of cores.
    torch.set_num_threads(1)
    trial = Trial(load_base(settings.base, settings.world.skills, work), settings, keys[0].world, keys[0].seed)
    for key in keys:
        ledger.add(key, *trial.run(key.arm))


def run_arms(ledger: Ledger, settings: Settings, work: Path, keys: Sequence[Key], processes: int) -> None:
    """Run the arms that the ledger lacks, seed by seed, so that few seeds of all arms are there early."""
    trials: dict[tuple[int, str], list[Key]] = {}
    for key in sorted(ledger.missing(list(keys)), key=lambda key: (key.seed, key.position)):
        trials.setdefault((key.seed, key.world), []).append(key)
    if processes == 1:
        for of_trial in trials.values():
            run_trial(ledger, settings, work, of_trial)
    else:
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            list(pool.map(partial(run_trial, ledger, settings, work), trials.values()))
    ledger.gather(keys)


def main(arguments: Sequence[str] | None = None, settings: Settings = FROZEN) -> None:
    """Run what is missing, or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run the arms that are missing")
    separation = commands.add_parser("separation", help="measure what forms of influence tell apart")
    table = commands.add_parser("table", help="write what the results come to")
    for command in (run, separation):
        command.add_argument("--work", type=Path, required=True, help="folder of the base model and of finished arms")
        command.add_argument("--seeds", type=int, default=20, help="worlds drawn anew, from seed 0")
        command.add_argument("--worlds", choices=DISTANCES, nargs="+", default=DISTANCES)
    run.add_argument("--arms", nargs="+", choices=NAMES, default=NAMES, metavar="ARM", help=", ".join(NAMES))
    run.add_argument("--processes", type=int, default=2, help="worlds worked on at a time, a thread each")
    table.add_argument("--readme", type=Path, default=HERE / "README.md", help="file with the marks of the tables")
    for command in (run, separation, table):
        command.add_argument("--evidence", type=Path, default=EVIDENCE, help="folder of results")
    given = parser.parse_args(arguments)
    if given.command == "table":
        write_table(given.evidence, given.readme)
        return
    if given.command == "separation":
        write_separations(given.evidence, given.work, settings, given.worlds, range(given.seeds))
        return
    torch.set_num_threads(1)
    base = load_base(settings.base, settings.world.skills, given.work)
    ledger = Ledger(given.evidence, given.work, settings, base)
    keys = [Key(world, arm, seed) for world in given.worlds for arm in given.arms for seed in range(given.seeds)]
    run_arms(ledger, settings, given.work, keys, given.processes)
