"""A seeded count sketch: projects gradients of any size to a short vector, inner products unbiased."""

import hashlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


class CountSketch:
    """Count sketch: adds every gradient entry, with a random sign, to one of `dim` buckets (Charikar et al. 2002).

    <sketch(x), sketch(y)> equals <x, y> in expectation over seeds, with about the variance of a dense Rademacher
    projection, at the cost of one addition per entry. Entries are hashed in blocks of `dim`, each block by a random
    permutation of the buckets: two entries of different blocks still collide with probability 1 / dim, two of the same
    block never, and a block becomes one index_select, whose sums have a fixed order on any device.

    The map is drawn by Philox, keyed by the SHA-256 of seed, dim, parameter name and shape, from raw 64-bit words
    only, so it does not depend on device, process, dict order or numpy version.
    """

    def __init__(self, dim: int, seed: int) -> None:
        """Fix the map.

        Args:
            dim: Number of buckets, at least 1.
            seed: Any integer; different seeds give independent maps.

        Raises:
            ValueError: dim is below 1, or dim or seed is not an integer.
        """
        for name, value in (("dim", dim), ("seed", seed)):
            if isinstance(value, bool) or not isinstance(value, int | np.integer):
                raise ValueError(f"{name} is {value!r}; expected an integer")
        if dim < 1:
            raise ValueError(f"dim is {dim}; expected at least 1")
        self.dim = int(dim)
        self.seed = int(seed)
        self._maps: dict[tuple[str, tuple[int, ...], torch.device], tuple[Tensor, Tensor]] = {}

    def project(self, gradients: Mapping[str, Tensor]) -> Tensor:
        """Sketch the gradients of n examples.

        Args:
            gradients: {parameter name: (n, *shape)}, floating, on one device, at least one.

        Returns:
            float32 (n, dim) on that device; not normalised.

        Raises:
            ValueError: No gradient, a scalar, different numbers of examples, or NaN or infinity.
        """
        if not gradients:
            raise ValueError("there is no gradient to sketch; expected at least one parameter")
        for name, gradient in gradients.items():
            if gradient.ndim < 1 or not gradient.is_floating_point():
                raise ValueError(f"{name}: a {gradient.ndim}-d {gradient.dtype} tensor; expected floating (n, *shape)")
            if not torch.isfinite(gradient).all():
                raise ValueError(f"{name}: the gradient holds NaN or infinity; expected finite numbers")
        rows = {name: len(gradient) for name, gradient in gradients.items()}
        if len(set(rows.values())) > 1:
            raise ValueError(f"numbers of examples differ: {rows}; expected one n")
        first = next(iter(gradients.values()))
        total = torch.zeros(len(first), self.dim, device=first.device)
        for name in sorted(gradients):
            self.add_(total, name, gradients[name])
        return total

    def add_(self, total: Tensor, name: str, gradient: Tensor) -> None:
        """Add the sketch of one parameter's gradients (n, *shape) to float32 `total` (n, dim); checks nothing."""
        flat = gradient.reshape(len(gradient), -1).float()
        shape = tuple(gradient.shape[1:])
        key = (name, shape, gradient.device)
        on_cpu = gradient.device.type == "cpu"
        if key not in self._maps:
            buckets, signs = self.hashes(name, shape)
            arrays = (buckets, signs.astype(np.float32)) if on_cpu else _slots(buckets, signs, self.dim)
            index, sign = (torch.from_numpy(array).to(gradient.device) for array in arrays)
            self._maps[key] = (index, sign)
        index, sign = self._maps[key]
        # On a CPU one thread adds a row, in order. Elsewhere scatter_add uses atomics, and its order is undefined.
        if on_cpu:
            total.scatter_add_(1, index.expand(len(flat), -1), flat * sign)
        else:
            _select_add(total, flat, index, sign)

    def hashes(self, name: str, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Return bucket (int64) and sign (int8, 1 or -1) of every entry of a parameter in C order, (entries,) each."""
        entries = int(np.prod(shape, dtype=np.int64))
        blocks = -(-entries // self.dim)
        label = f"{self.seed}/{self.dim}/{list(shape)}/{name}".encode()
        key = np.frombuffer(hashlib.sha256(label).digest(), dtype="<u8")[:2]
        words = np.random.Philox(key=key).random_raw(2 * blocks * self.dim).reshape(2, blocks, self.dim)
        # Sorting words whose low bits hold the position permutes the positions, with no ties to break.
        low = np.uint64((1 << (self.dim - 1).bit_length()) - 1)
        order = np.sort((words[0] & ~low) | np.arange(self.dim, dtype=np.uint64), axis=1)
        buckets = (order & low).astype(np.int64).reshape(-1)[:entries]
        signs = np.where(words[1] >> np.uint64(63), 1, -1).astype(np.int8).reshape(-1)[:entries]
        return buckets, signs


def _slots(buckets: np.ndarray, signs: np.ndarray, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Invert the map: for (block, bucket) the entry that goes there (int32) and its sign (int8; 0: no entry)."""
    blocks = -(-len(buckets) // dim)
    slot = np.arange(len(buckets)) // dim * dim + buckets
    entry = np.zeros(blocks * dim, dtype=np.int32)
    sign = np.zeros(blocks * dim, dtype=np.int8)
    entry[slot] = np.arange(len(buckets))
    sign[slot] = signs
    return entry.reshape(blocks, dim), sign.reshape(blocks, dim)


def _select_add(total: Tensor, flat: Tensor, entry: Tensor, sign: Tensor) -> None:
    selected = flat.index_select(1, entry.flatten()).view(len(flat), *entry.shape)
    total.add_(selected.mul_(sign).sum(dim=1))
