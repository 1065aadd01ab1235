"""The direction in which Adam would move for one example."""

import torch
from torch import Tensor

BETAS = (0.9, 0.999)
EPS = 1e-8


def update_direction(
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    *,
    betas: tuple[float, float] = BETAS,
    eps: float = EPS,
) -> Tensor:
    """Adam's update for `grad` at a checkpoint with these moments (LESS, arXiv 2402.04333, and its released code).

    m' = b1 m + (1 - b1) g, v' = b2 v + (1 - b2) g^2, direction = m' / sqrt(v' + eps). As in the released code eps is
    inside the root and no moment is bias-corrected. The direction is not linear in g: take it before any projection.

    Args:
        grad: (*shape) or, for many examples at once, (n, *shape).
        exp_avg: (*shape), torch AdamW's exp_avg.
        exp_avg_sq: (*shape), torch AdamW's exp_avg_sq, none below zero.
        betas: Decay of the first and the second moment, each in [0, 1).
        eps: Above zero.

    Returns:
        float32, of grad's shape.

    Raises:
        ValueError: Shapes do not fit, a value is not finite, a second moment is negative, betas or eps out of range.
    """
    require_hyperparameters(betas, eps)
    require_moments("exp_avg", exp_avg, exp_avg_sq)
    if grad.shape != exp_avg.shape and grad.shape[1:] != exp_avg.shape:
        raise ValueError(
            f"grad has shape {tuple(grad.shape)}; expected {tuple(exp_avg.shape)}, or examples in front of that"
        )
    if not torch.isfinite(grad).all():
        raise ValueError("grad holds NaN or infinity; expected finite numbers")
    return Direction(exp_avg, exp_avg_sq, betas, eps, grad.device)(grad)


class Direction:
    """`update_direction` at fixed moments, for gradient after gradient; it checks nothing and lets NaN through."""

    def __init__(
        self, exp_avg: Tensor, exp_avg_sq: Tensor, betas: tuple[float, float], eps: float, device: torch.device
    ) -> None:
        """Keeps b1 m and b2 v + eps as float32 on `device`."""
        self._fresh = (1.0 - betas[0], 1.0 - betas[1])
        self._momentum = exp_avg.to(device=device, dtype=torch.float32) * betas[0]
        self._floor = exp_avg_sq.to(device=device, dtype=torch.float32) * betas[1] + eps

    def __call__(self, grad: Tensor) -> Tensor:
        """Float32 direction of `grad` ((*shape) or (n, *shape))."""
        grad = grad.float()
        scale = torch.addcmul(self._floor, grad, grad, value=self._fresh[1]).sqrt_()
        return torch.add(self._momentum, grad, alpha=self._fresh[0]).div_(scale)


def require_hyperparameters(betas: tuple[float, float], eps: float) -> None:
    """Raises ValueError unless both betas lie in [0, 1) and eps is above zero."""
    if len(betas) != 2 or not all(0.0 <= beta < 1.0 for beta in betas):
        raise ValueError(f"betas are {betas}; expected two numbers in [0, 1)")
    if not 0.0 < eps < float("inf"):
        raise ValueError(f"eps is {eps}; expected a finite number above zero")


def require_moments(name: str, exp_avg: Tensor, exp_avg_sq: Tensor) -> None:
    """Raises ValueError, naming `name`, unless the moments are finite, of one shape, and the second not negative."""
    if exp_avg.shape != exp_avg_sq.shape:
        raise ValueError(
            f"{name}: exp_avg has shape {tuple(exp_avg.shape)}, exp_avg_sq {tuple(exp_avg_sq.shape)}; expected the same"
        )
    if not (torch.isfinite(exp_avg).all() and torch.isfinite(exp_avg_sq).all()):
        raise ValueError(f"{name}: a moment holds NaN or infinity; expected finite numbers")
    if (exp_avg_sq < 0).any():
        raise ValueError(f"{name}: exp_avg_sq goes down to {exp_avg_sq.min().item()}; expected nothing below zero")
