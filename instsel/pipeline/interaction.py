"""Stage *interaction*: how categories help or harm each other, by one estimator, as tables."""

import math
from typing import Any

import numpy as np
import pyarrow as pa

from instsel.console import Terminal
from instsel.mixture.dependency import LEVELS, Dependency
from instsel.mixture.interaction import Interaction
from instsel.study.folder import StageFolder

GAMMA = "gamma.parquet"
DEPENDENCY = "dependency.parquet"


def commit(
    stage: StageFolder,
    names: list[str],
    found: Interaction,
    dependency: Dependency | None,
    extra: dict[str, Any],
    *,
    tokens: int,
    peak_memory: int,
    terminal: Terminal,
) -> None:
    """Write gamma, and who needs whom where removals told it, as tables and in the manifest.

    Args:
        stage: of the estimator.
        names: of the categories, in the order of gamma.
        found: gamma.
        dependency: who needs whom, of the same categories.
        extra: what else the manifest's result says.
        tokens: that went through a model.
        peak_memory: bytes.
        terminal: where it is told which categories are unknown.
    """
    stage.folder.write_table(GAMMA, _pairs(names, "added", "evaluated", gamma=found.gamma, error=found.error))
    result: dict[str, Any] = {
        "categories": names,
        "gamma": plain(found.gamma),
        "error": plain(found.error),
        "own": plain(found.self_effect),
        "own_error": plain(found.self_effect_error),
        "unknown": [names[place] for place in found.unknown.tolist()],
        **extra,
    }
    if result["unknown"]:
        terminal.say(f"unknown for {', '.join(result['unknown'])}: their own rows do not clearly help them")
    if dependency is not None:
        columns = {"strength": dependency.strength, "error": dependency.error, "needs": dependency.needs}
        stage.folder.write_table(DEPENDENCY, _pairs(names, "without", "evaluated", **columns))
        result["dependency"] = {
            "strength": plain(dependency.strength),
            "error": plain(dependency.error),
            "needs": [
                {"category": names[needing], "needs": names[needed]}
                for needed, needing in np.argwhere(dependency.needs).tolist()
            ],
            "levels": {name: LEVELS[level] for name, level in zip(names, dependency.levels.tolist(), strict=True)},
            "cycles": [[names[place] for place in cycle] for cycle in dependency.cycles],
        }
    stage.commit(result, tokens=tokens, peak_memory=peak_memory)


def plain(values: np.ndarray) -> Any:
    """An array as lists for JSON, which has no NaN: None in its place."""
    lists = np.asarray(values, dtype=np.float64).tolist()
    return without_nan(lists)


def without_nan(value: Any) -> Any:
    """A number, or nested lists of them, with None in place of NaN."""
    if isinstance(value, list):
        return [without_nan(one) for one in value]
    return None if math.isnan(value) else value


def _pairs(names: list[str], first: str, second: str, **columns: np.ndarray) -> pa.Table:
    """A line a pair of categories."""
    size = len(names)
    pairs = {first: np.repeat(names, size), second: np.tile(names, size)}
    return pa.table({**pairs, **{name: values.reshape(-1) for name, values in columns.items()}})
