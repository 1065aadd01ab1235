"""The numbers of a study in one dict: losses, differences to random with intervals, what was chosen, what it cost."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from instsel.stats import paired_bootstrap

Losses = Mapping[str, np.ndarray]


def pooled(losses: Mapping[str, Losses], columns: Mapping[str, Sequence[str]]) -> dict[str, dict[str, np.ndarray]]:
    """Per-example losses of each column of the report: the mean over the runs behind it.

    Args:
        losses: run -> target -> float64 (q,) losses of its held-out examples.
        columns: column -> names of its runs (several seeds of one method).

    Returns:
        column -> target -> float64 (q,).
    """
    return {
        column: {target: np.mean([losses[run][target] for run in runs], axis=0) for target in losses[runs[0]]}
        for column, runs in columns.items()
    }


def loss_table(losses: Mapping[str, Losses]) -> dict[str, dict[str, float]]:
    """Mean loss by column and target, with "mean" for the mean over targets; nats."""
    table = {}
    for column, by_target in losses.items():
        means = {target: float(np.mean(values)) for target, values in by_target.items()}
        table[column] = {**means, "mean": float(np.mean(list(means.values())))} if means else {}
    return table


def differences(
    losses: Mapping[str, Losses], baseline: str, *, samples: int, confidence: float, seed: int
) -> dict[str, Any]:
    """Difference of each column to the baseline with its paired bootstrap interval, by target and for their mean."""
    if not losses[baseline]:
        return {}
    how: dict[str, Any] = {"samples": samples, "confidence": confidence, "seed": seed}
    return {
        column: paired_bootstrap(by_target, losses[baseline], **how)
        for column, by_target in losses.items()
        if column != baseline
    }
