"""Autograd functions that hand out a linear module's input and output gradient while the backward pass runs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

Pair = tuple[Tensor, Tensor]


class Tap(torch.autograd.Function):
    """Passes a module's output on, and its input with the gradient of that output to `receive` on the way back.

    The input is kept by autograd's own means, so that recomputation (torch.utils.checkpoint) lets go of it too.
    """

    @staticmethod
    def forward(ctx: Any, output: Tensor, inputs: Tensor, anchor: Tensor, receive: Callable[[Pair], None]) -> Tensor:
        """`anchor` requires a gradient, and so the graph starts here where nothing below needs one."""
        ctx.receive = receive
        ctx.save_for_backward(inputs)
        # A clone, so that the model may change its output in place.
        return output.clone()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient goes through unchanged."""
        (inputs,) = ctx.saved_tensors
        ctx.receive((upstream[0], inputs))
        return upstream[0], None, None, None


class LoraLayer(NamedTuple):
    """What PEFT's plain LoRA layer computes: base(x) + scale * up(down(x)).

    `down` is LoRA's A (r, in), `up` its B (out, r).
    """

    base: nn.Module
    down: Tensor
    up: Tensor
    scale: float

    @property
    def weight(self) -> Tensor:
        """The frozen weight as (out, in)."""
        weight: Any = self.base.weight
        return weight if isinstance(self.base, nn.Linear) else weight.T


class LoraTap(torch.autograd.Function):
    """A whole LoRA layer in one step, in the type of its frozen weight.

    On the way back it hands out the factors of both matrices' gradients. The low-rank part is added by matrix products
    that accumulate in place: scaling, adding, and summing two gradients on the way back, as PEFT's layer does, would
    each be one more pass over the activations.
    """

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, anchor: Tensor, layer: LoraLayer, receive: Callable[[Pair, Pair], None]
    ) -> Tensor:
        """`anchor` as for Tap; `receive` gets (output gradient, input) of down, then of up."""
        ctx.layer, ctx.receive = layer, receive
        taken = inputs.to(layer.weight.dtype)
        output: Tensor = layer.base(taken)
        # Under autocast a float32 weight gives a lower type.
        low = (taken @ layer.down.to(taken.dtype).T).to(output.dtype)
        up = layer.up.to(output.dtype)
        output.view(-1, output.shape[-1]).addmm_(low.view(-1, low.shape[-1]), up.T, alpha=layer.scale)
        # As it came: modules that share an input then keep it once.
        ctx.save_for_backward(inputs, low)
        return output

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of the input, and the factors of the two weights' gradients to `receive`."""
        inputs, low = ctx.saved_tensors
        layer: LoraLayer = ctx.layer
        gradient = upstream[0]
        back = (gradient @ layer.up.to(gradient.dtype)).mul_(layer.scale)
        ctx.receive((back, inputs.to(back.dtype)), (gradient, low * layer.scale))
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        below = gradient @ layer.weight.to(gradient.dtype)
        below.view(-1, below.shape[-1]).addmm_(back.view(-1, back.shape[-1]), layer.down.to(gradient.dtype))
        return below.to(inputs.dtype), None, None, None
