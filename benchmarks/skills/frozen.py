"""The settings of the benchmark, chosen on random and ideal alone, before any selector was run.

Whoever changes them makes another benchmark: results of other settings are told apart by their digest, and every
method has to be run again.
"""

import hashlib
import json
from dataclasses import asdict, dataclass

from benchmarks.skills.model import BaseSettings, TuneSettings
from benchmarks.skills.signals import SignalSettings
from benchmarks.skills.world import SKILLS, WorldSettings


@dataclass(frozen=True)
class Settings:
    """All that results depend on, beside distance, seed and arm.

    Attributes:
        world: rows.
        base: the model before fine-tuning.
        signals: what methods read.
        tune: training of an arm.
        budget: share of the pool that an arm takes.
    """

    world: WorldSettings
    base: BaseSettings
    signals: SignalSettings
    tune: TuneSettings
    budget: float

    @property
    def rows(self) -> int:
        """Rows that an arm takes."""
        return round(self.budget * self.world.pool_rows)

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that other settings do not have."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


FROZEN = Settings(
    world=WorldSettings(
        skills=tuple(SKILLS),
        related={"shift": ("shiftup",), "drop": ("dropup",), "swap": ("swapup",)},
        pool_rows=5000,
        shares={"right": 0.32, "wrong": 0.5, "near_copy": 0.1, "useless": 0.08},
        copies=3,
        validation_rows=16,
        test_rows=64,
    ),
    base=BaseSettings(
        hidden=128,
        intermediate=256,
        layers=3,
        heads=4,
        steps=200,
        batch_size=128,
        learning_rate=3e-3,
        trivial=0.08,
        weights={"shift": 0.8, "shiftup": 0.8, "drop": 0.8, "dropup": 0.8, "vowels": 0.6, "odd": 0.6, "even": 0.6},
        seed=0,
    ),
    signals=SignalSettings(
        warmup=TuneSettings(rank=8, epochs=4, batch_size=32, learning_rate=6e-3), dim=1024, damping=0.1
    ),
    tune=TuneSettings(rank=8, epochs=4, batch_size=32, learning_rate=6e-3),
    budget=0.05,
)
