"""Per-example weight gradients of linear modules from a single backward pass over a batch."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from instsel.gradients.hooks import (
    LoraSite,
    LoraTap,
    Pair,
    Site,
    Tap,
    blocks,
    frozen,
    linear_sites,
    lora_sites,
    replaced_forward,
)

Consumer = Callable[[str, Tensor], None]


class GradientCapture:
    """Computes per-example gradients of the trainable parameters and hands them out one parameter at a time.

    The gradient of a linear map's weight is, for one example, the sum over its positions of the outer product of output
    gradient and input. Taps on the modules see both, so that no parameter needs a gradient: autograd propagates
    through activations only, down to the first tapped module.

    A context manager: inside it the model is in evaluation mode (no dropout), no parameter requires a gradient, and the
    taps are installed; on exit the model is restored. Gradients are handed out as soon as the backward pass has formed
    them, and are not kept.
    """

    def __init__(self, model: nn.Module) -> None:
        """Find the modules to tap.

        Args:
            model: Gradients are taken of its parameters with requires_grad, which have to be weights or biases of
                torch Linear or transformers Conv1D modules (LoRA's A and B are Linear).

        Raises:
            ValueError: Nothing is trainable, a trainable parameter is of another kind, or a module mixes examples.
        """
        self._model = model
        self._parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self._sites = linear_sites(model)
        self._restore = ExitStack()
        self._anchor = torch.zeros((), requires_grad=True)
        self._consume: Consumer | None = None
        self._batch_shape = (0, 0)
        self._in_backward = False
        self._pending: dict[str, int] = {}
        self._sums: dict[str, Tensor] = {}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the trainable parameters, in the order of model.named_parameters()."""
        return {name: tuple(parameter.shape) for name, parameter in self._parameters.items()}

    def __enter__(self) -> "GradientCapture":  # noqa: PYI034
        """Freeze the model and install the taps."""
        inside: set[int] = set()
        with ExitStack() as stack:
            stack.enter_context(frozen(self._model))
            # Plain LoRA layers are looked up here, as an adapter may be merged or disabled at any time.
            for lora in lora_sites(self._model, self._parameters):
                inside |= {id(part) for part in lora.module.modules()}
                stack.enter_context(replaced_forward(lora.module, partial(self._lora_forward, lora)))
            for site in self._sites:
                if id(site.module) not in inside:
                    stack.callback(site.module.register_forward_hook(partial(self._forward, site)).remove)
            self._restore = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the taps and restore modes and requires_grad."""
        self._restore.close()
        self._pending.clear()
        self._sums.clear()

    @contextmanager
    def batch(self, rows: int, length: int, consume: Consumer, recompute: bool = False) -> Iterator[None]:
        """Span the forward and backward pass of one batch; on exit, every parameter was handed out once.

        Args:
            rows: Number of examples in the batch.
            length: Tokens of each example, padding included.
            consume: Called with parameter name and float32 (rows, *parameter shape); zeros if the loss does not
                depend on the parameter.
            recompute: Keep only the inputs of the model's blocks, and recompute each block in the backward pass.

        Raises:
            ValueError: A module was not called, or its input was not one vector per token of this batch.
        """
        self._batch_shape = (rows, length)
        self._consume = consume
        self._in_backward = False
        self._pending.clear()
        self._sums.clear()
        with ExitStack() as stack:
            for block in blocks(self._model) if recompute else ():
                again = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
                stack.enter_context(replaced_forward(block, again))
            yield
        for name, parameter in self._parameters.items():
            if name not in self._pending:
                raise ValueError(
                    f"{name}: its module was not called in the forward pass, so it has no gradient; is its adapter "
                    "merged or switched off? Make it active, or set requires_grad to False"
                )
            if self._pending[name] == 0:
                continue
            waiting = self._sums.pop(name, None)
            consume(name, torch.zeros(rows, *parameter.shape, device=parameter.device) if waiting is None else waiting)

    def backward(self, loss: Tensor) -> None:
        """Run the backward pass of the batch's loss, a scalar."""
        self._in_backward = True
        # Without a graph no tapped module was called, which `batch` then reports by name.
        if loss.requires_grad:
            loss.backward()

    def _forward(self, site: Site, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        self._check_input(args[0], site.weight, site.bias)
        tapped: Tensor = Tap.apply(  # type: ignore[no-untyped-call]
            output, args[0].detach(), self._anchor, partial(self._receive, site)
        )
        return tapped

    def _lora_forward(self, site: LoraSite, inputs: Tensor) -> Tensor:
        self._check_input(inputs, site.down, site.up)

        def receive(down: Pair, up: Pair) -> None:
            self._add(site.up, _outer_sums(*self._tokens(up)))
            self._add(site.down, _outer_sums(*self._tokens(down)))

        output: Tensor = LoraTap.apply(inputs, self._anchor, site.layer, receive)  # type: ignore[no-untyped-call]
        return output

    def _check_input(self, inputs: Tensor, *names: str | None) -> None:
        if inputs.ndim < 3 or tuple(inputs.shape[:2]) != self._batch_shape:
            raise ValueError(
                f"{names[0] or names[1]}: its module saw an input of shape {tuple(inputs.shape)} in a batch of "
                f"{self._batch_shape} (examples, tokens); expected (examples, tokens, features): where a module mixes "
                "examples or routes tokens, their gradients cannot be told apart"
            )
        # Blocks that the backward pass recomputes were counted in the forward pass.
        for name in names if not self._in_backward else ():
            if name is not None:
                self._pending[name] = self._pending.get(name, 0) + 1

    def _receive(self, site: Site, pair: Pair) -> None:
        upstream, inputs = self._tokens(pair)
        if site.bias is not None:
            self._add(site.bias, upstream.float().sum(dim=1))
        if site.weight is not None:
            self._add(site.weight, _outer_sums(*((inputs, upstream) if site.transposed else (upstream, inputs))))

    def _tokens(self, pair: Pair) -> Pair:
        """Reshape both to (examples, tokens, features), merging the axes between."""
        rows = self._batch_shape[0]
        left, right = (part.reshape(rows, -1, part.shape[-1]) for part in pair)
        return left, right

    def _add(self, name: str, gradient: Tensor) -> None:
        if name in self._sums:
            gradient = self._sums.pop(name).add_(gradient)
        self._pending[name] -= 1
        if self._pending[name] > 0:
            self._sums[name] = gradient
            return
        assert self._consume is not None
        self._consume(name, gradient)


def _outer_sums(left: Tensor, right: Tensor) -> Tensor:
    """Sum outer products over tokens: (n, T, a) and (n, T, b) to float32 (n, a, b), accumulated in float32."""
    left = left.transpose(1, 2)
    if left.is_cuda and left.dtype == right.dtype and left.dtype in (torch.bfloat16, torch.float16):
        return torch.bmm(left, right, out_dtype=torch.float32)
    return torch.bmm(left.float(), right.float())
