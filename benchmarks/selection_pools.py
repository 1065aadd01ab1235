"""Made-up pools for the selection benchmarks: seeded, in float32, of any number of rows."""

from collections.abc import Mapping

import numpy as np

CENTRES = 100
WORDS, VOCABULARY = 40, 50_000
_DIRECTIONS = 16

Pool = Mapping[str, np.ndarray]


def make_pool(kind: str, rows: int, *, validation: int = 64, dim: int | None = None) -> Pool:
    """What selectors that read this kind of input need.

    Args:
        kind: "rows", "losses", "prompts", "attribution", "gradients" or "embeddings".
        rows: of the pool.
        validation: validation rows, for attribution and gradients.
        dim: columns of gradients (512 where none is given) or embeddings (384).
    """
    random = np.random.default_rng(0)
    if kind == "rows":
        return {"groups": random.integers(CENTRES, size=rows)}
    if kind == "losses":
        alone = random.uniform(1, 3, rows)
        return {"tokens": random.integers(1, 500, rows), "loss": alone * random.uniform(0.2, 1.2, rows), "alone": alone}
    if kind == "prompts":
        return {"prompts": _texts(random, rows), "wanted": _texts(random, validation)}
    if kind == "attribution":
        attribution = random.standard_normal((rows, validation), dtype=np.float32)
        return {"attribution": attribution, "tasks": np.arange(validation) * 8 // validation}
    if kind == "gradients":
        train = _gradients(random, rows + validation, dim or 512)
        return {"train": train[:rows], "validation": train[rows:]}
    embeddings, tasks = clusters(random, rows, dim or 384)
    return {"embeddings": embeddings, "tasks": tasks}


def clusters(random: np.random.Generator, rows: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Points around 100 centres, and the centre of each."""
    centres = random.standard_normal((CENTRES, dim), dtype=np.float32)
    members = random.integers(CENTRES, size=rows)
    points = random.standard_normal((rows, dim), dtype=np.float32)
    points *= np.float32(0.7)
    for first in range(0, rows, 10_000):
        points[first : first + 10_000] += centres[members[first : first + 10_000]]
    return points, members


def _texts(random: np.random.Generator, rows: int) -> np.ndarray:
    """Texts of 40 words of a vocabulary of 50,000, whose frequencies fall as those of a language do."""
    numbers = np.minimum(random.zipf(1.2, size=(rows, WORDS)), VOCABULARY)
    return np.array([" ".join(f"w{number}" for number in line) for line in numbers.tolist()], dtype=object)


def _gradients(random: np.random.Generator, rows: int, dim: int) -> np.ndarray:
    """Mixtures of 16 directions, towards one side of each, with noise: rows that agree, so that G2IS can walk."""
    directions = random.standard_normal((_DIRECTIONS, dim), dtype=np.float32)
    gradients = random.standard_normal((rows, dim), dtype=np.float32)
    gradients *= np.float32(0.5 * _DIRECTIONS**0.5)
    for first in range(0, rows, 10_000):
        part = gradients[first : first + 10_000]
        part += (random.standard_normal((len(part), _DIRECTIONS), dtype=np.float32) + 1) @ directions
    return gradients
