"""Modules that own trainable parameters, and the autograd functions that tap their inputs and gradients."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

Pair = tuple[Tensor, Tensor]


class Tap(torch.autograd.Function):
    """Identity on a module's output whose backward pass calls `receive` with the output's gradient and the input.

    The input is saved with save_for_backward, so that recomputation (torch.utils.checkpoint) frees it as well.
    """

    @staticmethod
    def forward(ctx: Any, output: Tensor, inputs: Tensor, anchor: Tensor, receive: Callable[[Pair], None]) -> Tensor:
        """Copy the output; `anchor` requires a gradient, so the graph starts here even if nothing below needs one."""
        ctx.receive = receive
        ctx.save_for_backward(inputs)
        # A clone, so that the model may modify its output in place.
        return output.clone()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Hand out gradient and input, and pass the gradient on unchanged."""
        (inputs,) = ctx.saved_tensors
        ctx.receive((upstream[0], inputs))
        return upstream[0], None, None, None


class LoraLayer(NamedTuple):
    """The parts of PEFT's plain LoRA layer, which computes base(x) + scale * up(down(x)).

    `down` is LoRA's A (r, in), `up` is its B (out, r).
    """

    base: nn.Module
    down: Tensor
    up: Tensor
    scale: float

    @property
    def weight(self) -> Tensor:
        """Frozen weight as (out, in)."""
        weight: Tensor = self.base.weight  # type: ignore[assignment]
        return weight if isinstance(self.base, nn.Linear) else weight.T


class LoraTap(torch.autograd.Function):
    """A whole LoRA layer as one autograd function, in the dtype of its frozen weight.

    Its backward pass hands out the factors of both matrices' gradients. The low-rank part is added by matrix products
    that accumulate in place: to scale, to add, and to sum two gradients in the backward pass, as PEFT's layer does,
    would each take one more pass over the activations.
    """

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, anchor: Tensor, layer: LoraLayer, receive: Callable[[Pair, Pair], None]
    ) -> Tensor:
        """Compute the layer; `anchor` as in `Tap`, `receive` gets (output gradient, input) of down and of up."""
        ctx.layer, ctx.receive = layer, receive
        cast = inputs.to(layer.weight.dtype)
        output: Tensor = layer.base(cast)
        # Under autocast a float32 weight gives an output of lower precision.
        low = (cast @ layer.down.to(cast.dtype).T).to(output.dtype)
        up = layer.up.to(output.dtype)
        output.view(-1, output.shape[-1]).addmm_(low.view(-1, low.shape[-1]), up.T, alpha=layer.scale)
        # Saved as it came, so that modules with a common input keep it only once.
        ctx.save_for_backward(inputs, low)
        return output

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Return the input's gradient, and hand the factors of the two weights' gradients to `receive`."""
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
    """A module that owns trainable parameters, with their names in model.named_parameters()."""

    module: nn.Module
    weight: str | None
    bias: str | None
    transposed: bool


class LoraSite(NamedTuple):
    """A PEFT layer that is replaced as a whole, with the names of its two trainable matrices."""

    module: nn.Module
    layer: LoraLayer
    down: str
    up: str


def linear_sites(model: nn.Module) -> list[Site]:
    """Return the modules that own trainable parameters.

    Raises:
        ValueError: There is none, one is not a linear map, or a module of the model mixes examples.
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
                f"{next(iter(owned.values()))} belongs to a {type(module).__name__}; per-example gradients are "
                "available for Linear and Conv1D modules only: train those, or set requires_grad to False"
            )
        sites.append(Site(module, owned.get("weight"), owned.get("bias"), transposed))
    return sites


def lora_sites(model: nn.Module, trainable: Mapping[str, Tensor]) -> list[LoraSite]:
    """Return PEFT's plain LoRA layers, which `LoraTap` can compute, with trainable matrices and a frozen base."""
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
    """Return the members of the model's outermost module lists: in transformers, its stack of layers."""
    members: list[nn.Module] = []
    for child in model.children():
        members += list(child) if isinstance(child, nn.ModuleList) else blocks(child)
    return members


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Keep the model in evaluation mode with no parameter requiring a gradient; restore both on exit."""
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
    """Replace the forward method of a module, whose hooks stay; restore it on exit."""
    before = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if before is not None:
            module.forward = before


def _plain_lora(module: nn.Module) -> LoraLayer | None:
    # By names, as PEFT is not imported here. Dropout is off, as the model is in evaluation mode.
    kind: Any = type(module)
    if (kind.__module__, kind.__name__) != ("peft.tuners.lora.layer", "Linear"):
        return None
    peft: Any = module
    active = [name for name in peft.active_adapters if name in peft.lora_A]
    if len(active) != 1 or peft.merged or peft.disable_adapters or active[0] in peft.lora_variant:
        return None
    base, down, up = peft.base_layer, peft.lora_A[active[0]], peft.lora_B[active[0]]
    dense = (type(base) is nn.Linear or _is_conv1d(base)) and base.weight.is_floating_point()
    # If a forward was set on the instance, something else patched it and expects it to be called.
    untouched = all("forward" not in vars(part) for part in (peft, down, up))
    if not dense or not untouched or down.bias is not None or up.bias is not None:
        return None
    return LoraLayer(base, down.weight, up.weight, float(peft.scaling[active[0]]))


def _is_conv1d(module: nn.Module) -> bool:
    # By name, as transformers is not imported here.
    return type(module).__name__ == "Conv1D"
