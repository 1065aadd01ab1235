"""What results come to: a Markdown table of means over seeds, and of differences to random on the same seeds.

python -m benchmarks.skills.table --results FILE.parquet --out benchmarks/results/skills.md
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from scipy.stats import t

from benchmarks.report import facts_list, machine
from benchmarks.skills.frozen import FROZEN, Settings
from instsel.report.markdown import markdown_table

BASELINE, IDEAL, UNTRAINED = "random", "ideal", "base"
COMMAND = "python -m benchmarks.skills --cache FOLDER --out FILE.parquet --table benchmarks/results/skills.md"
CONFIDENCE = 0.95
_NONE = "\N{EN DASH}"

Lines = dict[str, dict[int, dict[str, Any]]]
"""The lines of a world: arm, then seed."""


def paired_interval(arm: np.ndarray, baseline: np.ndarray) -> tuple[float, float, float]:
    """Return the mean of the differences and its interval by Student's t.

    Args:
        arm: (seeds,), of one arm.
        baseline: (seeds,), of the other on the same worlds.

    Returns:
        Mean, low and high; of one seed the interval is NaN.
    """
    differences = arm - baseline
    mean, seeds = float(differences.mean()), len(differences)
    if seeds < 2:
        return mean, float("nan"), float("nan")
    half = float(t.ppf((1 + CONFIDENCE) / 2, seeds - 1) * differences.std(ddof=1) / np.sqrt(seeds))
    return mean, mean - half, mean + half


def world_table(lines: Lines) -> str:
    """Write the table of one world, arms by falling difference to random."""
    targets = [name for name, _ in next(iter(lines[BASELINE].values()))["accuracy_by_target"]]
    header = ["arm", "seeds", "exact match", "- random", *targets, "recall", "wrong", "near-copies", "useless", "s"]
    rows = [_row(arm, lines, targets) for arm in lines]
    return markdown_table(header, [cells for _, cells in sorted(rows, key=lambda row: (-row[0], row[1][0]))])


def _row(arm: str, lines: Lines, targets: Sequence[str]) -> tuple[float, list[str]]:
    """Return the mean difference to random, and the cells of an arm."""
    of_arm, baseline = lines[arm], lines[BASELINE]
    seeds = sorted(of_arm.keys() & baseline.keys())
    values = [of_arm[seed] for seed in seeds]
    pairs = np.array([(of_arm[seed]["accuracy"], baseline[seed]["accuracy"]) for seed in seeds]).reshape(-1, 2)
    mean, low, high = paired_interval(pairs[:, 0], pairs[:, 1])
    difference = _NONE if arm == BASELINE else f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"
    by_target = [
        f"{np.mean([dict(value['accuracy_by_target'])[target] for value in values]):.3f}" for target in targets
    ]
    shares = [_mean(values, key) for key in ("recall", "wrong", "near_copy", "useless")]
    if arm == UNTRAINED:
        shares = [_NONE] * len(shares)
    seconds = _mean(
        [{"s": (value["choice_seconds"] or 0) + (value["tuning_seconds"] or 0)} for value in values], "s", 1
    )
    return mean, [
        arm,
        str(len(seeds)),
        f"{pairs[:, 0].mean():.3f}",
        difference,
        *by_target,
        *shares,
        f"{np.mean(seconds):.1f}",
    ]


def _mean(values: Sequence[dict[str, Any]], key: str) -> str:
    numbers = [value[key] for value in values]
    return _NONE if None in numbers else f"{np.mean(numbers):.2f}"


def signal_table(lines: Lines) -> str:
    """Write what each signal took, mean over seeds."""
    last: dict[str, list[float]] = {}
    for seed in lines[BASELINE]:
        seconds: dict[str, float] = {}
        for of_arm in lines.values():
            if seed in of_arm:
                seconds |= dict(of_arm[seed]["signal_seconds"] or [])
        for name, value in seconds.items():
            last.setdefault(name, []).append(value)
    return markdown_table(["signal", "s"], [[name, f"{np.mean(values):.1f}"] for name, values in sorted(last.items())])


def write_table(results: Path, out: Path, settings: Settings = FROZEN) -> None:
    """Write the Markdown page of a file of results."""
    worlds: dict[str, Lines] = {}
    for line in pq.read_table(results).to_pylist():
        worlds.setdefault(line["world"], {}).setdefault(line["arm"], {})[line["seed"]] = line
    facts = machine("cpu") | {
        "command": f"`{COMMAND}`",
        "settings": f"`{settings.digest}`, frozen before any selector was run: "
        + "; ".join(f"{name} {value}" for name, value in asdict(settings).items()),
    }
    parts = [f"# Skills\n\n{facts_list(facts)}", EXPLANATION]
    for world, lines in worlds.items():
        parts.append(f"## {world.capitalize()}\n\n{world_table(lines)}")
        parts.append(f"What methods read, computed once for all arms of a seed:\n\n{signal_table(lines)}")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join(part.rstrip("\n") + "\n" for part in parts), encoding="utf-8")


EXPLANATION = f"""Each arm takes the same number of rows of a pool in which the helpful rows are known, trains LoRA on
them, and is tested by exact match on rows of the target skills that neither the pool nor the validation rows have. In
*near* the pool has rows of the target skills, in *far* only rows of skills that share an operation with them. A seed
draws all rows anew, the LoRA matrices and the order of training; the base model is the same in all.

- exact match: mean over targets, then over seeds; beside it each target.
- - random: difference to random on the same seeds, mean and {CONFIDENCE:.0%} interval of Student's t. Nothing corrects
  it for the number of arms.
- recall: helpful rows taken, of those that fit into the budget. wrong, near-copies, useless: shares of the rows taken.
- s: seconds of choosing, of training and of the test; what a method reads is not in it.
- base is the model before any training, ideal takes helpful rows only. A method that reads influence has its form after
  a colon: cosine (Adam directions of pool rows, gradients of validation rows, as LESS has it), fisher (the same,
  preconditioned), plain (gradients of both) and plain_fisher. Gradients are taken at one checkpoint, after a short
  training on random rows. facility_location, graph_cut, log_det and smart read hidden states here, not embeddings of
  prompts.

What is said here is claimed for this world alone: a model of under a million parameters, short texts, exact rules.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    write_table(given.results, given.out)


if __name__ == "__main__":
    main()
