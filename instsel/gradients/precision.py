"""Where a bfloat16 model computes in float32: in the sum over its layers."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def float32_stream(model: nn.Module) -> Iterator[None]:
    """In it the residual stream of a bfloat16 or float16 model is float32; its matrix products stay in its own type.

    The stream is the sum of all layers' outputs; this spares it the rounding after each. What the products round stays.
    Models with torch's LayerNorm, which takes one type only, are left as they are.
    """
    embedding: Any = model.get_input_embeddings()  # type: ignore[operator]
    dtype = embedding.weight.dtype
    if dtype == torch.float32 or any(isinstance(module, nn.LayerNorm) for module in model.modules()):
        yield
        return
    with ExitStack() as stack:
        stack.callback(embedding.register_forward_hook(_to_float32).remove)
        stack.enter_context(torch.autocast(embedding.weight.device.type, dtype))
        yield


def _to_float32(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    return output.float()
