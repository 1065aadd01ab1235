"""Where a bfloat16 model computes in float32: in the sum over its layers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from instsel.data.batching import IGNORED, BatchFitter, Example, collate
from instsel.gradients.adam import BETAS, EPS, Direction, require_hyperparameters, require_moments
from instsel.gradients.capture import Consumer, GradientCapture
from instsel.gradients.sketch import CountSketch
from instsel.models.loss import answer_losses


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


Moments = Mapping[str, tuple[Tensor, Tensor]]


class GradientEngine:
    """Gradients of the per-example answer loss with respect to the trainable parameters, a batch in one backward pass.

    A parameter's gradients are formed for the whole batch, turned into Adam directions if there are moments, added into
    the batch's sketch, and freed, before the backward pass goes on: beside the activations, memory holds one
    parameter's gradients and (examples of a batch, sketch dim). The model is left as it was: mode, requires_grad,
    hooks, gradients.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        sketch: CountSketch,
        moments: Moments | None = None,
        token_budget: int = 4096,
        betas: tuple[float, float] = BETAS,
        eps: float = EPS,
        recompute: bool = False,
    ) -> None:
        """Checks that model and moments fit each other.

        Args:
            model: A causal language model whose trainable parameters (requires_grad) belong to Linear or Conv1D
                modules, as LoRA's do. Which ones are trainable is read here, once.
            sketch: Where the features go.
            moments: {parameter name: (exp_avg, exp_avg_sq)} of exactly the trainable parameters, names as
                model.named_parameters() gives them; None for plain gradients.
            token_budget: Most tokens of a batch, padding included, to begin with. A batch that runs out of memory is
                halved and tried again, and so are all later ones.
            betas: Adam's, of the checkpoint the moments come from.
            eps: Adam's, of the same.
            recompute: Keep only the inputs of the model's blocks in the forward pass and run each block again on the
                way back; another forward pass, and a block's activations in place of a model's. Switched on by
                itself where a single row does not fit otherwise.

        Raises:
            ValueError: A parameter that cannot be done, moments that do not match by name or shape, or a value out of
                range.
        """
        require_hyperparameters(betas, eps)
        self._model = model
        self._sketch = sketch
        self._fitter = BatchFitter(token_budget, recompute)
        self._capture = GradientCapture(model)
        self._embedding = _embedding(model)
        self._directions = None if moments is None else _directions(model, self._capture.shapes, moments, betas, eps)

    @property
    def token_budget(self) -> int:
        """Most tokens of a batch, padding included: as given, or what was learned since from running out of memory."""
        return self._fitter.token_budget

    @property
    def recompute(self) -> bool:
        """Whether activations are recomputed: as given, or because a single row did not fit."""
        return bool(self._fitter.recompute)

    def features(self, examples: Sequence[Example]) -> np.ndarray:
        """Sketched gradients, or sketched Adam directions if the engine has moments.

        Args:
            examples: {"input_ids": list[int], "labels": list[int]}; a label of -100 is not supervised.

        Returns:
            float32 (n, sketch dim) in input order, not normalised. The row of an example whose gradient is not finite
            is not finite.

        Raises:
            ValueError: An example, named by its index, that is malformed or has no answer token.
            MemoryError: An example does not fit in memory even alone and recomputed.
        """
        features = np.zeros((len(examples), self._sketch.dim), dtype=np.float32)

        def fill(rows: list[int], recompute: bool) -> None:
            features[rows] = self._sketched([examples[row] for row in rows], recompute)

        self._run(examples, fill)
        return features

    def gradients(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Exact per-example gradients of every trainable parameter; n times the parameters in memory.

        Args:
            examples: As for `features`.

        Returns:
            {parameter name: float32 (n, *shape)} on the CPU, in input order.

        Raises:
            ValueError: As `features`.
        """
        gradients = {name: torch.zeros(len(examples), *shape) for name, shape in self._capture.shapes.items()}

        def fill(rows: list[int], recompute: bool) -> None:
            def keep(name: str, gradient: Tensor) -> None:
                gradients[name][rows] = gradient.cpu()

            self._backward([examples[row] for row in rows], keep, recompute)

        self._run(examples, fill)
        return gradients

    def _run(self, examples: Sequence[Example], fill: Callable[[list[int], bool], None]) -> None:
        for index, example in enumerate(examples):
            _require_example(index, example, self._embedding.num_embeddings)
        with self._capture:
            self._fitter.run([len(example["input_ids"]) for example in examples], fill)

    def _sketched(self, examples: Sequence[Example], recompute: bool) -> np.ndarray:
        totals: dict[torch.device, Tensor] = {}

        def add(name: str, gradient: Tensor) -> None:
            # A model spread over devices forms its gradients where its layers are.
            if gradient.device not in totals:
                totals[gradient.device] = torch.zeros(len(gradient), self._sketch.dim, device=gradient.device)
            direction = gradient if self._directions is None else self._directions[name](gradient)
            self._sketch.add_(totals[gradient.device], name, direction)

        self._backward(examples, add, recompute)
        return torch.stack([total.cpu() for total in totals.values()]).sum(dim=0).numpy()

    def _backward(self, examples: Sequence[Example], consume: Consumer, recompute: bool) -> None:
        batch = collate(examples, device=self._embedding.weight.device)
        rows, length = batch["input_ids"].shape
        with torch.enable_grad(), self._capture.batch(rows, length, consume, recompute):
            with float32_stream(self._model):
                loss = answer_losses(self._model, batch).sum()
            self._capture.backward(loss)


def _require_example(index: int, example: Example, vocabulary: int) -> None:
    tokens, labels = example["input_ids"], example["labels"]
    if len(tokens) != len(labels):
        raise ValueError(f"example {index} has {len(tokens)} tokens and {len(labels)} labels; expected as many")
    for key, values, allowed in (("input_ids", tokens, ()), ("labels", labels, (IGNORED,))):
        for value in values:
            if not 0 <= value < vocabulary and value not in allowed:
                raise ValueError(f"example {index}: {key} holds {value}; the model has tokens 0 to {vocabulary - 1}")
    if all(label == IGNORED for label in labels[1:]):
        raise ValueError(f"example {index} has no answer token after its first position; its gradient would be zero")


def _embedding(model: Any) -> nn.Embedding:
    return model.get_input_embeddings()


def _directions(
    model: nn.Module, shapes: Mapping[str, tuple[int, ...]], moments: Moments, betas: tuple[float, float], eps: float
) -> dict[str, Direction]:
    missing, unknown = sorted(shapes.keys() - moments.keys()), sorted(moments.keys() - shapes.keys())
    if missing or unknown:
        raise ValueError(
            f"moments do not match the trainable parameters by name: {len(missing)} without moments {missing[:3]}, "
            f"{len(unknown)} moments without a parameter {unknown[:3]}"
        )
    parameters = dict(model.named_parameters())
    directions = {}
    for name, shape in shapes.items():
        exp_avg, exp_avg_sq = moments[name]
        require_moments(name, exp_avg, exp_avg_sq)
        if tuple(exp_avg.shape) != shape:
            raise ValueError(f"{name}: moments have shape {tuple(exp_avg.shape)}; the parameter has {shape}")
        directions[name] = Direction(exp_avg, exp_avg_sq, betas, eps, parameters[name].device)
    return directions
