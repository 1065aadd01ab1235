"""Per-example weight gradients of linear modules, taken by hooks while one backward pass serves a whole batch."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

Consumer = Callable[[str, Tensor], None]


class _Site(NamedTuple):
    """A module that owns trainable parameters, by the names that model.named_parameters() gives them."""

    module: nn.Module
    weight: str | None
    bias: str | None
    transposed: bool


class GradientCapture:
    """Hands out each trainable parameter's per-example gradients as soon as the backward pass has formed them.

    The gradient of a linear map's weight is, for one example, the sum over its positions of the outer product of output
    gradient and input. Both pass by hooks on the module, so that neither the frozen parameters nor the trainable ones
    need a gradient of their own: only activations flow back, down to the first hooked module.

    A context manager: inside it the model is in evaluation mode (no dropout), no parameter requires a gradient, and the
    hooks are in place; on leaving, all is as it was. Gradients leave a parameter at a time and are not kept here.
    """

    def __init__(self, model: nn.Module) -> None:
        """Plans the hooks.

        Args:
            model: Its parameters with requires_grad are those whose gradients are wanted. They have to be weights or
                biases of torch Linear or transformers Conv1D modules (LoRA's A and B are Linear).

        Raises:
            ValueError: Nothing is trainable, a trainable parameter is of another kind, or a module mixes examples.
        """
        self._model = model
        self._sites = _sites(model)
        self._parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self._restore = ExitStack()
        self._consume: Consumer | None = None
        self._grid = (0, 0)
        self._open: dict[str, int] = {}
        self._sums: dict[str, Tensor] = {}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every trainable parameter, in the order of model.named_parameters()."""
        return {name: tuple(parameter.shape) for name, parameter in self._parameters.items()}

    def __enter__(self) -> "GradientCapture":
        """Freezes the model and places the hooks."""
        self._restore = ExitStack()
        self._restore.enter_context(_frozen(self._model))
        for site in self._sites:
            self._restore.callback(site.module.register_forward_hook(partial(self._forward, site)).remove)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Takes the hooks away and restores modes and requires_grad."""
        self._restore.close()
        self._open.clear()
        self._sums.clear()

    @contextmanager
    def batch(self, rows: int, length: int, consume: Consumer) -> Iterator[None]:
        """Spans forward and backward pass of one batch; on leaving, every parameter has been handed over once.

        Args:
            rows: Examples of the batch.
            length: Tokens of each, padding included.
            consume: Called with parameter name and float32 (rows, *parameter shape); zeros where the loss does not
                depend on the parameter.

        Raises:
            ValueError: A module was not called, or saw anything but one vector a token of this batch.
        """
        self._grid = (rows, length)
        self._consume = consume
        self._open.clear()
        self._sums.clear()
        yield
        for name, parameter in self._parameters.items():
            if name not in self._open:
                raise ValueError(
                    f"{name}: its module was not called in the forward pass, so it has no gradient; is its adapter "
                    "merged or switched off? Make it active, or set requires_grad to False"
                )
            if self._open[name] == 0:
                continue
            waiting = self._sums.pop(name, None)
            consume(name, torch.zeros(rows, *parameter.shape, device=parameter.device) if waiting is None else waiting)

    def _forward(self, site: _Site, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if not torch.is_grad_enabled():
            return None
        inputs = args[0]
        if inputs.ndim < 3 or tuple(inputs.shape[:2]) != self._grid:
            raise ValueError(
                f"{site.weight or site.bias}: its module saw an input of shape {tuple(inputs.shape)} in a batch of "
                f"{self._grid} (examples, tokens); expected (examples, tokens, features): where a module mixes "
                "examples or routes tokens, their gradients cannot be told apart"
            )
        for name in (site.weight, site.bias):
            if name is not None:
                self._open[name] = self._open.get(name, 0) + 1
        replaced = None
        if not output.requires_grad:
            # Nothing below needs a gradient: the graph starts here. The clone keeps in-place operations on it lawful.
            output = replaced = output.detach().requires_grad_().clone()
        output.register_hook(partial(self._backward, site, inputs.detach()))
        return replaced

    def _backward(self, site: _Site, inputs: Tensor, upstream: Tensor) -> None:
        rows = self._grid[0]
        upstream = upstream.detach().reshape(rows, -1, upstream.shape[-1])
        if site.bias is not None:
            self._add(site.bias, upstream.float().sum(dim=1))
        if site.weight is not None:
            left, right = upstream, inputs.reshape(rows, -1, inputs.shape[-1])
            if site.transposed:
                left, right = right, left
            self._add(site.weight, _outer_sums(left, right))

    def _add(self, name: str, gradient: Tensor) -> None:
        if name in self._sums:
            gradient = self._sums.pop(name).add_(gradient)
        self._open[name] -= 1
        if self._open[name] > 0:
            self._sums[name] = gradient
            return
        assert self._consume is not None
        self._consume(name, gradient)


def _outer_sums(left: Tensor, right: Tensor) -> Tensor:
    """Sum over tokens of left x right: (n, T, a) and (n, T, b) to float32 (n, a, b), accumulated in float32."""
    left = left.transpose(1, 2)
    if left.is_cuda and left.dtype == right.dtype and left.dtype in (torch.bfloat16, torch.float16):
        return torch.bmm(left, right, out_dtype=torch.float32)
    return torch.bmm(left.float(), right.float())


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
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


def _sites(model: nn.Module) -> list[_Site]:
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
        # By name, as transformers is not imported here.
        transposed = type(module).__name__ == "Conv1D"
        if not (transposed or isinstance(module, nn.Linear)) or not owned.keys() <= {"weight", "bias"}:
            raise ValueError(
                f"{next(iter(owned.values()))} belongs to a {type(module).__name__}; per-example gradients can be "
                "taken of Linear and Conv1D modules only: train those, or set requires_grad to False"
            )
        sites.append(_Site(module, owned.get("weight"), owned.get("bias"), transposed))
    return sites
