"""What a form of influence can tell apart: right rows from wrong ones, and skills that help from the others."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from sklearn.metrics import roc_auc_score

from benchmarks.skills.frozen import Settings
from benchmarks.skills.model import load_base
from benchmarks.skills.signals import FORMS, Signals
from benchmarks.skills.world import Distance, World, make_world
from instsel.report.markdown import markdown_table

FILE = "separation.parquet"


@dataclass(frozen=True)
class Separation:
    """Areas under ROC curves of the score that less ranks by: the best target's mean influence. 0.5 is chance.

    Attributes:
        world: near or far.
        seed: of the world.
        form: of influence.
        skills: right rows of the skills that help against right rows of other skills.
        answers: right against wrong rows of the skills that help.
        all_answers: right against wrong rows of all skills.
    """

    world: Distance
    seed: int
    form: str
    skills: float
    answers: float
    all_answers: float


def separations(signals: Signals, world: World, distance: Distance) -> list[Separation]:
    """Return how each form tells the rows of a world apart."""
    right, wrong, good = world.of_kind("right"), world.of_kind("wrong"), world.of_good_skill
    targets = np.array(signals.targets)
    found = []
    for form in FORMS:
        influence = signals.influence(form)
        score = np.max([influence[:, targets == target].mean(axis=1) for target in np.unique(targets)], axis=0)
        areas = [
            _area(score, positive, negative)
            for positive, negative in ((right & good, right & ~good), (right & good, wrong & good), (right, wrong))
        ]
        found.append(Separation(distance, signals.seed, form, *areas))
    return found


def _area(score: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> float:
    rows = positive | negative
    return float(roc_auc_score(positive[rows], score[rows]))


def write_separations(
    evidence: Path, work: Path, settings: Settings, distances: Sequence[Distance], seeds: Sequence[int]
) -> None:
    """Measure worlds and write the file of them."""
    torch.set_num_threads(1)
    base = load_base(settings.base, settings.world.skills, work)
    lines = []
    for distance in distances:
        for seed in seeds:
            world = make_world(settings.world, distance, seed)
            signals = Signals(world, base, settings.signals, settings.rows, seed)
            lines += [asdict(line) for line in separations(signals, world, distance)]
    pq.write_table(pa.Table.from_pylist(lines), evidence / FILE)


def separation_table(evidence: Path) -> str:
    """Write means over seeds, a line for each world and form."""
    lines = pq.read_table(evidence / FILE).to_pylist()
    groups: dict[tuple[str, str], list[list[float]]] = {}
    for line in lines:
        areas = [line[name] for name in ("skills", "answers", "all_answers")]
        groups.setdefault((line["world"], line["form"]), []).append(areas)
    rows = [[*key, *(f"{area:.2f}" for area in np.mean(areas, axis=0))] for key, areas in groups.items()]
    header = ["world", "form", "skills that help", "answers, in these skills", "answers, in all skills"]
    return f"{markdown_table(header, rows)}\nMeans over {len({line['seed'] for line in lines})} seeds.\n"
