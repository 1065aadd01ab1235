"""Hooks on the modules that own trainable parameters: where they are, and what passes through them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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


class Site(NamedTuple):
    """A module that owns trainable parameters, by the names that model.named_parameters() gives them."""

    module: nn.Module
    weight: str | None
    bias: str | None
    transposed: bool


class LoraSite(NamedTuple):
    """A PEFT layer that is done as a whole, with the names of its two trainable matrices."""

    module: nn.Module
    layer: LoraLayer
    down: str
    up: str


def linear_sites(model: nn.Module) -> list[Site]:
    """The modules that own trainable parameters.

    Raises:
        ValueError: There is none, one is no linear map, or a module of the model mixes examples.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not names:
        raise ValueError("the model has no trainable parameter; attach a LoRA adapter with is_trainable=True")
    sites = []
    for path, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ValueError(f"{path} is a {type(module).__name__}: it mixes examples; expected none in the model")
        owned = {key: names[id(value)] for key, value in module.named_parameters(recurse=False) if id(value) in names}
        if not owned:
            continue
        transposed = _is_conv1d(module)
        if not (transposed or isinstance(module, nn.Linear)) or not owned.keys() <= {"weight", "bias"}:
            raise ValueError(
                f"{next(iter(owned.values()))} belongs to a {type(module).__name__}; per-example gradients can be "
                "taken of Linear and Conv1D modules only: train those, or set requires_grad to False"
            )
        sites.append(Site(module, owned.get("weight"), owned.get("bias"), transposed))
    return sites


def lora_sites(model: nn.Module, trainable: Mapping[str, Tensor]) -> list[LoraSite]:
    """The LoRA layers of PEFT that are as plain as `LoraTap`, their two matrices trainable and their base frozen."""
    names = {id(parameter): name for name, parameter in trainable.items()}
    sites = []
    for module in model.modules():
        layer = _plain_lora(module)
        if layer is None or any(id(parameter) in names for parameter in layer.base.parameters()):
            continue
        if id(layer.down) in names and id(layer.up) in names:
            sites.append(LoraSite(module, layer, names[id(layer.down)], names[id(layer.up)]))
    return sites


def blocks(model: nn.Module) -> list[nn.Module]:
    """The members of the model's outermost module lists: what transformers stacks and calls one after another."""
    found: list[nn.Module] = []
    for child in model.children():
        found += list(child) if isinstance(child, nn.ModuleList) else blocks(child)
    return found


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """In it the model is in evaluation mode and no parameter requires a gradient; after it, all is as it was."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    training = [module for module in model.modules() if module.training]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        model.eval()
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
        for module in training:
            module.training = True


@contextmanager
def replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """In it the module computes `forward`; its hooks stay."""
    before = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if before is not None:
            module.forward = before


def _plain_lora(module: nn.Module) -> LoraLayer | None:
    # By names, as PEFT is not imported here. Its dropout is off where gradients are taken.
    kind: Any = type(module)
    if (kind.__module__, kind.__name__) != ("peft.tuners.lora.layer", "Linear"):
        return None
    peft: Any = module
    active = [name for name in peft.active_adapters if name in peft.lora_A]
    if len(active) != 1 or peft.merged or peft.disable_adapters or active[0] in peft.lora_variant:
        return None
    base, down, up = peft.base_layer, peft.lora_A[active[0]], peft.lora_B[active[0]]
    dense = (type(base) is nn.Linear or _is_conv1d(base)) and base.weight.is_floating_point()
    # A forward of an instance's own was put there by someone who wants it called.
    untouched = all("forward" not in vars(part) for part in (peft, down, up))
    if not dense or not untouched or down.bias is not None or up.bias is not None:
        return None
    return LoraLayer(base, down.weight, up.weight, float(peft.scaling[active[0]]))


def _is_conv1d(module: nn.Module) -> bool:
    # By name, as transformers is not imported here.
    return type(module).__name__ == "Conv1D"
