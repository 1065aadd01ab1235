"""The count sketch: against a naive loop, unbiased, and one map everywhere."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from instsel.gradients.sketch import CountSketch, _select_add, _slots

SHAPES = {"a.weight": (3, 7), "b.weight": (50,), "c": (4, 2, 5)}


def gradients(rows=3, seed=0, shapes=SHAPES):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(rows, *shape, generator=generator) for name, shape in shapes.items()}


def naive(sketch, parts):
    rows = len(next(iter(parts.values())))
    total = np.zeros((rows, sketch.dim))
    for name, part in parts.items():
        buckets, signs = sketch.hashes(name, tuple(part.shape[1:]))
        for row in range(rows):
            for entry, value in enumerate(part[row].flatten().tolist()):
                total[row, buckets[entry]] += signs[entry] * value
    return total


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(-5, 2**70), st.integers(1, 4))
def test_equals_a_naive_loop(dim, seed, rows):
    sketch, parts = CountSketch(dim, seed), gradients(rows)
    projected = sketch.project(parts)
    assert projected.dtype == torch.float32
    assert projected.shape == (rows, dim)
    np.testing.assert_allclose(projected.numpy(), naive(sketch, parts), rtol=1e-5, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 90))
def test_the_gather_of_other_devices_equals_the_scatter_of_the_cpu(dim, entries):
    sketch = CountSketch(dim, 3)
    flat = torch.randn(4, entries, generator=torch.Generator().manual_seed(entries))
    total = torch.ones(4, dim)
    _select_add(total, flat, *(torch.from_numpy(part) for part in _slots(*sketch.hashes("w", (entries,)), dim)))
    torch.testing.assert_close(total, sketch.project({"w": flat}) + 1, rtol=1e-5, atol=1e-5)


def test_inner_products_are_right_on_average_with_the_variance_of_a_dense_projection():
    dim, seeds = 64, 3000
    shapes = {"w": (20, 15), "v": (90,)}
    parts = gradients(2, shapes=shapes)
    flat = torch.cat([part.flatten(1) for part in parts.values()], dim=1).double()
    flat[1] += 0.5 * flat[0]
    parts = {"w": flat[:, :300].reshape(2, 20, 15).float(), "v": flat[:, 300:].float()}
    exact = (flat[0] @ flat[1]).item()
    estimates = []
    for seed in range(seeds):
        left, right = CountSketch(dim, seed).project(parts).double()
        estimates.append((left @ right).item())
    # A dense Rademacher projection has this variance, less a diagonal term that a count sketch lacks as well.
    dense = ((flat[0] @ flat[0]) * (flat[1] @ flat[1]) + exact**2).item() / dim
    spread = float(np.std(estimates))
    assert abs(np.mean(estimates) - exact) < 4 * spread / seeds**0.5
    assert spread**2 < 1.1 * dense


def test_every_bucket_and_both_signs_are_hit_alike():
    buckets, signs = CountSketch(100, 0).hashes("w", (70_050,))
    counts = np.bincount(buckets, minlength=100)
    assert counts.min() >= 700
    assert counts.max() <= 701
    assert abs(signs.mean()) < 4 / 70_050**0.5
    first = buckets[:70_000].reshape(700, 100)[:, 0]
    assert np.bincount(first, minlength=100).max() < 25


def test_seed_name_shape_and_dim_each_change_the_map():
    maps = [
        CountSketch(32, 0).hashes("w", (4, 6)),
        CountSketch(32, 1).hashes("w", (4, 6)),
        CountSketch(32, 0).hashes("v", (4, 6)),
        CountSketch(32, 0).hashes("w", (6, 4)),
    ]
    assert len({buckets.tobytes() for buckets, _ in maps}) == len({signs.tobytes() for _, signs in maps}) == 4


def test_the_map_is_pinned():
    """Features of earlier studies stay comparable: this very map, on every machine and version."""
    buckets, signs = CountSketch(8, 7).hashes("layer.weight", (2, 5))
    assert buckets.tolist() == [0, 5, 2, 4, 7, 1, 6, 3, 4, 3]
    assert signs.tolist() == [1, 1, -1, 1, -1, 1, -1, 1, 1, 1]


@pytest.mark.process
def test_another_process_has_the_same_map():
    program = (
        "import torch; from instsel.gradients.sketch import CountSketch; "
        "print(CountSketch(16, 5).project({'w': torch.arange(1.0, 41.0).view(1, 40)}).tolist())"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    here = CountSketch(16, 5).project({"w": torch.arange(1.0, 41.0).view(1, 40)})
    assert eval(printed) == here.tolist()


def test_the_order_of_the_dict_does_not_matter():
    parts = gradients()
    backwards = dict(reversed(parts.items()))
    assert torch.equal(CountSketch(16, 0).project(parts), CountSketch(16, 0).project(backwards))


@pytest.mark.parametrize(("dim", "seed"), [(0, 0), (-3, 0), (4.5, 0), (True, 0), (8, "x"), (8, 1.0)])
def test_bad_dimension_or_seed_is_refused(dim, seed):
    with pytest.raises(ValueError, match=r"dim|seed"):
        CountSketch(dim, seed)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "no gradient"),
        ({"w": torch.zeros(())}, "0-d"),
        ({"w": torch.zeros(2, 3, dtype=torch.int64)}, "int64"),
        ({"w": torch.zeros(2, 3), "v": torch.zeros(3, 3)}, "numbers of examples differ"),
        ({"w": torch.tensor([[1.0, torch.inf]])}, "w: .*infinity"),
    ],
)
def test_bad_gradients_are_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        CountSketch(8, 0).project(parts)
