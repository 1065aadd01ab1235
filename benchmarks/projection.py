"""The dense Rademacher projection that LESS uses, drawn block by block."""

import torch
from torch import Tensor

_ENTRIES_PER_BLOCK = 2**24


def project(rows: Tensor, dim: int, seed: int) -> Tensor:
    """rows (n, P) times a P x dim matrix of seeded random signs, of which one block is held at a time.

    Args:
        rows: float32 (n, P).
        dim: A multiple of 8.
        seed: The same seed gives the same matrix on the same kind of device.

    Returns:
        float32 (n, dim), divided by sqrt(dim), so that inner products keep their size.
    """
    generator = torch.Generator(rows.device).manual_seed(seed)
    byte_signs = _byte_signs(rows.device)
    total = torch.zeros(len(rows), dim, device=rows.device)
    height = max(1, _ENTRIES_PER_BLOCK // dim)
    for start in range(0, rows.shape[1], height):
        part = rows[:, start : start + height]
        total.addmm_(part, random_signs(part.shape[1], dim, generator, byte_signs))
    return total.div_(dim**0.5)


def random_signs(height: int, dim: int, generator: torch.Generator, byte_signs: Tensor) -> Tensor:
    """float32 (height, dim) of 1 and -1, one random bit each: 10 times as fast as drawing them one by one."""
    words = torch.empty(-(-height * dim // 64), dtype=torch.int64, device=byte_signs.device)
    words.random_(-(2**63), None, generator=generator)
    taken = words.view(torch.uint8)[: height * dim // 8]
    return byte_signs.index_select(0, taken.int()).view(height, dim)


def _byte_signs(device: torch.device) -> Tensor:
    """float32 (256, 8): the signs that the bits of a byte stand for."""
    bits = torch.arange(256, device=device).unsqueeze(1).bitwise_right_shift(torch.arange(8, device=device))
    return bits.bitwise_and(1).float().mul_(2).sub_(1)
