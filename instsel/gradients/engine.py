"""The gradient engine: sketched or exact per-example gradients of a causal language model."""

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
    """Keep the residual stream of a bfloat16 or float16 model in float32; matrix products stay in the model's dtype.

    The stream is the sum of all layers' outputs, and is no longer rounded after each of them. Models with torch's
    LayerNorm, which accepts a single dtype only, are not changed.
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
    """Computes gradients of the per-example answer loss with respect to the trainable parameters.

    One backward pass serves a whole batch. The gradients of a parameter are formed for the batch, turned into Adam
    directions if there are moments, added to the batch's sketch, and freed, before the backward pass continues: beside
    the activations, memory holds the gradients of a single parameter and (examples of a batch, sketch dim). The model
    is restored afterwards: mode, requires_grad, hooks, gradients.
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
        """Check that model and moments match.

        Args:
            model: A causal language model whose trainable parameters (requires_grad) belong to Linear or Conv1D
                modules, as LoRA's do. Which parameters are trainable is determined here, once.
            sketch: Projection of the features.
            moments: {parameter name: (exp_avg, exp_avg_sq)} of exactly the trainable parameters, with the names of
                model.named_parameters(); None for plain gradients.
            token_budget: Maximum tokens of a batch at first, padding included. If a batch runs out of memory, it and
                all later ones are halved.
            betas: Adam's decay rates at the checkpoint of the moments.
            eps: Adam's denominator constant at that checkpoint.
            recompute: Keep only the inputs of the model's blocks in the forward pass and recompute each block in the
                backward pass: one more forward pass, but the activations of a single block in memory. Turned on
                automatically if a single row does not fit otherwise.

        Raises:
            ValueError: An unsupported trainable parameter, moments that do not match by name or shape, or a value out
                of range.
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
        """Maximum tokens of a batch, padding included: as given, or lower if a batch ran out of memory."""
        return self._fitter.token_budget

    @property
    def recompute(self) -> bool:
        """Whether activations are recomputed: as given, or because a single row did not fit."""
        return bool(self._fitter.recompute)

    def features(self, examples: Sequence[Example]) -> np.ndarray:
        """Compute sketched gradients, or sketched Adam directions if the engine has moments.

        Args:
            examples: {"input_ids": list[int], "labels": list[int]}; a label of -100 is not supervised.

        Returns:
            float32 (n, sketch dim) in input order, not normalised. An example whose gradient is not finite gets a row
            that is not finite.

        Raises:
            ValueError: An example, named by its index, that is malformed or has no answer token.
            MemoryError: A single example does not fit in memory even with recomputation.
        """
        return self.features_and_losses(examples)[0]

    def features_and_losses(self, examples: Sequence[Example]) -> tuple[np.ndarray, np.ndarray]:
        """Compute `features`, and the losses that they are gradients of, which the same passes give.

        Args:
            examples: As for `features`.

        Returns:
            Features, float32 (n, sketch dim), and mean cross-entropies of the answer tokens, float64 (n,), nats.

        Raises:
            ValueError, MemoryError: As `features`.
        """
        features = np.zeros((len(examples), self._sketch.dim), dtype=np.float32)
        losses = np.zeros(len(examples))

        def fill(rows: list[int], recompute: bool) -> None:
            features[rows], losses[rows] = self._sketched([examples[row] for row in rows], recompute)

        self._run(examples, fill)
        return features, losses

    def gradients(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Compute exact per-example gradients of every trainable parameter; they take n times its memory.

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

    def _sketched(self, examples: Sequence[Example], recompute: bool) -> tuple[np.ndarray, np.ndarray]:
        totals: dict[torch.device, Tensor] = {}

        def add(name: str, gradient: Tensor) -> None:
            # If the model is spread over devices, each gradient is on the device of its layer.
            if gradient.device not in totals:
                totals[gradient.device] = torch.zeros(len(gradient), self._sketch.dim, device=gradient.device)
            direction = gradient if self._directions is None else self._directions[name](gradient)
            self._sketch.add_(totals[gradient.device], name, direction)

        losses = self._backward(examples, add, recompute)
        return torch.stack([total.cpu() for total in totals.values()]).sum(dim=0).numpy(), losses

    def _backward(self, examples: Sequence[Example], consume: Consumer, recompute: bool) -> np.ndarray:
        """Hand each parameter's gradients of the batch to `consume`; the losses, float64 (rows,)."""
        batch = collate(examples, device=self._embedding.weight.device)
        rows, length = batch["input_ids"].shape
        with torch.enable_grad(), self._capture.batch(rows, length, consume, recompute):
            with float32_stream(self._model):
                losses = answer_losses(self._model, batch)
            self._capture.backward(losses.sum())
        values: np.ndarray = losses.detach().double().cpu().numpy()
        return values


def _require_example(index: int, example: Example, vocabulary: int) -> None:
    tokens, labels = example["input_ids"], example["labels"]
    if len(tokens) != len(labels):
        raise ValueError(
            f"example {index} has {len(tokens)} tokens and {len(labels)} labels; expected one label per token"
        )
    for key, values, allowed in (("input_ids", tokens, ()), ("labels", labels, (IGNORED,))):
        for value in values:
            if not 0 <= value < vocabulary and value not in allowed:
                raise ValueError(f"example {index}: {key} holds {value}; the model has tokens 0 to {vocabulary - 1}")
    if all(label == IGNORED for label in labels[1:]):
        raise ValueError(f"example {index} has no answer token after its first position; its gradient would be zero")


def _embedding(model: Any) -> nn.Embedding:
    embedding: nn.Embedding = model.get_input_embeddings()
    return embedding


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
