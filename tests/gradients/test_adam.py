"""The Adam direction: by hand, against torch's optimizer, and what it refuses."""

import pytest
import torch

from instsel.gradients.adam import update_direction


def test_hand_computed_direction_and_its_cosine():
    """methods T10: eps inside the root, no bias correction."""
    direction = update_direction(
        torch.tensor([0.1, 0.5]), torch.tensor([0.1, 0.0]), torch.tensor([0.01, 0.0001]), betas=(0.9, 0.999), eps=1e-8
    )
    torch.testing.assert_close(direction, torch.tensor([1.0, 2.6730]), atol=1e-4, rtol=0)
    assert (direction[0] / direction.norm()).item() == pytest.approx(0.3504, abs=1e-4)


def test_it_is_the_step_of_torch_adamw_up_to_bias_correction():
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(4, 3, dtype=torch.float64))
    optimizer = torch.optim.AdamW([weight], lr=1.0, betas=(0.8, 0.95), eps=1e-14, weight_decay=0.0)
    for _ in range(5):
        weight.grad = torch.randn_like(weight)
        optimizer.step()
    state = {key: value.clone() for key, value in optimizer.state[weight].items()}
    before, gradient = weight.detach().clone(), torch.randn_like(weight)
    direction = update_direction(gradient, state["exp_avg"], state["exp_avg_sq"], betas=(0.8, 0.95), eps=1e-28)
    weight.grad = gradient
    optimizer.step()
    correction = (1 - 0.95**6) ** 0.5 / (1 - 0.8**6)
    torch.testing.assert_close((before - weight.detach()).float(), direction * correction, rtol=1e-5, atol=1e-6)


def test_eps_is_inside_the_root():
    direction = update_direction(torch.zeros(1), torch.ones(1), torch.zeros(1), betas=(0.5, 0.5), eps=0.25)
    torch.testing.assert_close(direction, torch.tensor([1.0]))


def test_examples_in_front_are_done_one_by_one_in_float32():
    torch.manual_seed(0)
    gradients, first, second = torch.randn(5, 2, 3).bfloat16(), torch.randn(2, 3), torch.rand(2, 3)
    together = update_direction(gradients, first, second)
    assert together.dtype == torch.float32
    torch.testing.assert_close(together, torch.stack([update_direction(row, first, second) for row in gradients]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grad": torch.zeros(2)}, "grad has shape"),
        ({"grad": torch.zeros(2, 2, 3)}, "grad has shape"),
        ({"grad": torch.full((3,), torch.nan)}, "grad holds NaN"),
        ({"exp_avg": torch.zeros(2)}, "exp_avg has shape"),
        ({"exp_avg": torch.full((3,), torch.inf)}, "NaN or infinity"),
        ({"exp_avg_sq": torch.tensor([0.0, -1.0, 0.0])}, "-1.0"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"betas": (-0.1, 0.9)}, "betas"),
        ({"eps": 0.0}, "eps"),
        ({"eps": float("nan")}, "eps"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    arguments = {"grad": torch.zeros(3), "exp_avg": torch.zeros(3), "exp_avg_sq": torch.zeros(3), **change}
    tensors = [arguments.pop(name) for name in ("grad", "exp_avg", "exp_avg_sq")]
    with pytest.raises(ValueError, match=message):
        update_direction(*tensors, **arguments)
