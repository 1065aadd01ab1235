"""How far cosines of sketches are from exact ones, and those of bf16 from those of fp32."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.contenders import SKETCH_SEED, make_engine
from benchmarks.workload import Workload
from instsel.gradients.adam import update_direction
from instsel.gradients.sketch import CountSketch


@dataclass(frozen=True)
class Spread:
    """Mean, root mean square and largest absolute value of differences."""

    mean: float
    rms: float
    largest: float


@dataclass(frozen=True)
class SketchError:
    """Sketched less exact cosines of all pairs of rows, over several sketch seeds and for the default one alone."""

    kind: str
    dim: int
    seeds: int
    over_seeds: Spread
    default_seed: Spread


def sketch_errors(work: Workload, dtype: str, dims: Sequence[int], seeds: int) -> list[SketchError]:
    """Measures the sketch on the exact per-example gradients and Adam directions of the measured rows."""
    gradients = make_engine(work, dtype, adam=False).gradients(work.examples)
    directions = {name: update_direction(value, *work.moments[name]) for name, value in gradients.items()}
    kinds = {"plain gradients": gradients, "Adam directions": directions}
    errors = []
    for kind, exact in kinds.items():
        wanted = upper(exact_cosines(exact))
        for dim in dims:
            errors_of = {seed: upper(cosines(CountSketch(dim, seed).project(exact))) - wanted for seed in range(seeds)}
            over_seeds = spread(torch.cat(list(errors_of.values())))
            errors.append(SketchError(kind, dim, seeds, over_seeds, spread(errors_of[SKETCH_SEED])))
    return errors


def bf16_differences(work: Workload) -> dict[str, Spread]:
    """Cosines of the engine's features in bf16 less those in fp32: of gradients, of directions, and the influence."""
    plain, adam = (
        {
            dtype: torch.from_numpy(make_engine(work, dtype, adam=with_moments).features(work.examples))
            for dtype in ("bf16", "fp32")
        }
        for with_moments in (False, True)
    )
    return {
        "plain with plain": spread(upper(cosines(plain["bf16"])) - upper(cosines(plain["fp32"]))),
        "Adam with Adam": spread(upper(cosines(adam["bf16"])) - upper(cosines(adam["fp32"]))),
        "Adam with plain (influence)": spread(
            (cosines(adam["bf16"], plain["bf16"]) - cosines(adam["fp32"], plain["fp32"])).flatten()
        ),
    }


def exact_cosines(gradients: Mapping[str, Tensor]) -> Tensor:
    """float64 (n, n) cosines of rows whose entries are spread over parameters, a parameter at a time."""
    gram: Tensor | int = 0
    for gradient in gradients.values():
        rows = gradient.flatten(1).double()
        gram = gram + rows @ rows.T
    assert isinstance(gram, Tensor)
    lengths = gram.diagonal().sqrt()
    return gram / torch.outer(lengths, lengths)


def cosines(left: Tensor, right: Tensor | None = None) -> Tensor:
    """float64 cosines of all rows of `left` with all of `right`, or with each other."""
    left = torch.nn.functional.normalize(left.double())
    right = left if right is None else torch.nn.functional.normalize(right.double())
    return left @ right.T


def upper(matrix: Tensor) -> Tensor:
    """The entries above the diagonal: every pair once."""
    rows, columns = torch.triu_indices(len(matrix), len(matrix), offset=1)
    return matrix[rows, columns]


def spread(differences: Tensor) -> Spread:
    """Summarises differences, at least one."""
    rms = differences.square().mean().sqrt()
    return Spread(float(differences.mean()), float(rms), float(differences.abs().max()))
