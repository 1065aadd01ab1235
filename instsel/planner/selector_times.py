"""What a choice takes, timed on random numbers of the study's shape, in the process that will select."""

import time
import warnings
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa

from instsel.attribution.timing import seconds_to_solve, seconds_to_sum
from instsel.selection.base import Method, Requires
from instsel.selection.cost import Shape
from instsel.selection.method_data import (
    EmbeddingData,
    GradientData,
    HiddenStateData,
    IndexData,
    InfluenceData,
    LikelihoodData,
    MethodData,
    PromptData,
)

TIMED_ROWS = 2048
TIMED_ENTRIES = 2**24
TIMED_PICKS = 32
"""Of methods whose every pick looks at the whole pool."""

TIMED_GROUPS = 8
TIMED_WORDS = 20_000
"""That texts are made of."""


def selector_seconds(method: Method, shape: Shape, unit: str) -> float:
    """Time a choice: that of a few rows, times by how much the method's `work` is larger.

    Args:
        method: As the study file has it.
        shape: What it chooses from.
        unit: Of the budget.
    """
    timed = method.timed_as()
    rows = min(shape.rows, TIMED_ROWS, max(64, TIMED_ENTRIES // max(1, shape.width(method.requires))))
    picks = min(rows, TIMED_PICKS) if timed.scans_pool else max(1, round(shape.chosen * rows / shape.rows))
    few = replace(shape, rows=rows, chosen=picks)
    data, largest = random_data(timed.requires, few), replace(shape, rows=max(method.pool_sizes(shape)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start = time.monotonic()
        timed.timed_select(data, picks, largest)
        seconds = time.monotonic() - start
    whole = sum(method.work(choice) for choice in choices(method, shape, unit))
    return seconds * whole / timed.work(few) + _whitening_seconds(method, shape)


def choices(method: Method, shape: Shape, unit: str) -> Iterator[Shape]:
    """Yield the choices that keep a budget: one of rows; of tokens, those by which their number is searched."""
    if unit == "rows":
        yield shape
        return
    if method.is_prefix_stable:
        yield replace(shape, chosen=min(shape.rows, 1 + round(1.5 * shape.chosen)))
        return
    low, high = 0, shape.rows
    while low < high:
        rows = (low + high + 1) // 2
        yield replace(shape, chosen=rows)
        low, high = (rows, high) if rows <= shape.chosen else (low, rows - 1)


def random_data(requires: Requires, shape: Shape) -> MethodData:
    """Make data of random numbers: all columns of one target and subtask, rows in a few groups.

    Args:
        requires: What kind.
        shape: Of the data.
    """
    rows, width = shape.rows, max(1, shape.width(requires))
    values = np.random.default_rng(0).standard_normal((rows, width), dtype=np.float32)
    ids = [str(row) for row in range(rows)]
    groups = [str(row % TIMED_GROUPS) for row in range(rows)]
    numbers = np.abs(values[:, 0])
    if requires == "index":
        return IndexData(ids, numbers, numbers, labels_of=lambda by: groups)
    if requires == "likelihood":
        return LikelihoodData(ids, numbers, numbers, labels_of=lambda by: groups)
    if requires == "embeddings":
        return EmbeddingData(ids, values, labels_of=lambda by: groups)
    count = width if requires == "influence" else max(1, shape.columns)
    names = [str(column) for column in range(count)]
    columns = pa.table({"id": names, "target": ["target"] * count, "subtask": ["subtask"] * count})
    if requires == "influence":
        return InfluenceData(ids, values, columns, labels_of=lambda by: groups)
    if requires == "prompts":
        prompts, validation_prompts = _random_texts(rows, shape.tokens, 0), _random_texts(count, shape.tokens, 1)
        return PromptData(ids, prompts, columns, validation_prompts, labels_of=lambda by: groups)
    validation = np.random.default_rng(1).standard_normal((count, width), dtype=np.float32)
    if requires == "gradients":
        return GradientData(ids, values, columns, validation, labels_of=lambda by: groups)
    return HiddenStateData(ids, values, columns, validation, labels_of=lambda by: groups)


def _random_texts(count: int, tokens: float, seed: int) -> list[str]:
    """Make texts of words of which some are frequent and most are rare, as in a language, and one is in all texts."""
    words = (TIMED_WORDS ** np.random.default_rng(seed).random((count, round(tokens)))).astype(int)
    return [" ".join(["w0", *(f"w{word}" for word in text)]) for text in words.tolist()]


def _whitening_seconds(method: Method, shape: Shape) -> float:
    """Return the time of Fisher matrices and their factors, and of a triangular system for each row.

    The system takes as many products as the matrix, in the wider type.
    """
    if method.requires != "gradients" or shape.damping is None:
        return 0.0
    rows = 3 * shape.rows * seconds_to_sum(shape.dim)
    return shape.checkpoints * (rows + seconds_to_solve(shape.dim, 1))
