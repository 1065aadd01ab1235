"""Adam's update direction for the gradient of a single example."""

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
    """Compute Adam's update for `grad` at a checkpoint with these moments (LESS, arXiv 2402.04333, and its code).

    m' = b1 m + (1 - b1) g, v' = b2 v + (1 - b2) g^2, direction = m' / sqrt(v' + eps). As in the released code, eps is
    inside the root and the moments are not bias-corrected. The direction is not linear in g, so it has to be taken
    before any projection.

    Args:
        grad: (*shape), or (n, *shape) for n examples at once.
        exp_avg: (*shape), torch AdamW's exp_avg.
        exp_avg_sq: (*shape), torch AdamW's exp_avg_sq, not negative.
        betas: Decay rates of the first and the second moment, each in [0, 1).
        eps: Denominator constant, above zero.

    Returns:
        float32, of the shape of `grad`.

    Raises:
        ValueError: Shapes do not match, a value is not finite, a second moment is negative, betas or eps out of range.
    """
    require_hyperparameters(betas, eps)
    require_moments("exp_avg", exp_avg, exp_avg_sq)
    if grad.shape != exp_avg.shape and grad.shape[1:] != exp_avg.shape:
        raise ValueError(f"grad has shape {tuple(grad.shape)}; expected {tuple(exp_avg.shape)}, or (examples, *that)")
    if not torch.isfinite(grad).all():
        raise ValueError("grad holds NaN or infinity; expected finite numbers")
    return Direction(exp_avg, exp_avg_sq, betas, eps, grad.device)(grad)


class Direction:
    """`update_direction` with fixed moments, for many gradients; checks nothing and lets NaN pass."""

    def __init__(
        self, exp_avg: Tensor, exp_avg_sq: Tensor, betas: tuple[float, float], eps: float, device: torch.device
    ) -> None:
        """Precompute b1 m and b2 v + eps as float32 on `device`."""
        self._fresh = (1.0 - betas[0], 1.0 - betas[1])
        self._momentum = exp_avg.to(device=device, dtype=torch.float32) * betas[0]
        self._floor = exp_avg_sq.to(device=device, dtype=torch.float32) * betas[1] + eps

    def __call__(self, grad: Tensor) -> Tensor:
        """Return the float32 direction of `grad`, (*shape) or (n, *shape)."""
        grad = grad.float()
        scale = torch.addcmul(self._floor, grad, grad, value=self._fresh[1]).sqrt_()
        return torch.add(self._momentum, grad, alpha=self._fresh[0]).div_(scale)


def require_hyperparameters(betas: tuple[float, float], eps: float) -> None:
    """Raise ValueError unless both betas are in [0, 1) and eps is above zero."""
    if len(betas) != 2 or not all(0.0 <= beta < 1.0 for beta in betas):
        raise ValueError(f"betas are {betas}; expected two numbers in [0, 1)")
    if not 0.0 < eps < float("inf"):
        raise ValueError(f"eps is {eps}; expected a finite number above zero")


def require_moments(name: str, exp_avg: Tensor, exp_avg_sq: Tensor) -> None:
    """Raise ValueError, naming `name`, unless moments are finite, of equal shape, and the second is not negative."""
    if exp_avg.shape != exp_avg_sq.shape:
        raise ValueError(
            f"{name}: exp_avg has shape {tuple(exp_avg.shape)}, exp_avg_sq {tuple(exp_avg_sq.shape)}; expected the same"
        )
    if not (torch.isfinite(exp_avg).all() and torch.isfinite(exp_avg_sq).all()):
        raise ValueError(f"{name}: a moment holds NaN or infinity; expected finite numbers")
    if (exp_avg_sq < 0).any():
        raise ValueError(f"{name}: exp_avg_sq has the entry {exp_avg_sq.min().item()}; expected nothing below zero")
