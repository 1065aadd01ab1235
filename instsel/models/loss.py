"""Loss of every example in a batch: mean cross-entropy over its answer tokens."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instsel.data.batching import IGNORED

# Families whose logits are head(decoder(ids)), softcapped if the config says so. Other families may scale their logits
# differently, so their own forward method computes them.
_PLAIN_HEADS = frozenset(
    {
        "gemma",
        "gemma2",
        "gemma3_text",
        "gpt2",
        "gpt_neox",
        "llama",
        "mistral",
        "mixtral",
        "olmo2",
        "phi3",
        "qwen2",
        "qwen3",
        "smollm3",
    }
)
_LOGITS_PER_CHUNK = 2**25


def answer_losses(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Compute the mean cross-entropy of each example over its answer tokens (LESS, arXiv 2402.04333, Section 2).

    Logits are computed only at positions that predict an answer token, in chunks. If the output head is frozen, the
    gradient of a chunk is computed right away, so that the logits of only one chunk are in memory. Only modules are
    called, never raw weights, so sharded parameters (ZeRO-3) are collected by their own hooks. If a wrapper must see
    the forward pass (DeepSpeed, DDP), wrap a module whose forward calls this function.

    Args:
        model: A causal language model, with or without a PEFT wrapper around it.
        batch: input_ids (B, T), attention_mask (B, T) and labels (B, T), int64, padded on the right; a label of -100 is
            not supervised, the label at position t is predicted from the positions before t.

    Returns:
        float32 (B,), differentiable.

    Raises:
        ValueError: An example has no answer token after its first position.
    """
    labels = batch["labels"]
    rows, length = labels.shape
    targets = F.pad(labels[:, 1:], (0, 1), value=IGNORED)
    answered = targets != IGNORED
    counts = answered.sum(dim=1)
    empty = torch.nonzero(counts == 0).flatten()
    if len(empty):
        raise ValueError(f"batch rows {empty.tolist()} have no answer token; expected a label that is not -100")
    positions = torch.nonzero(answered.flatten()).flatten()
    target_ids = targets.flatten()[positions]
    weight = (1.0 / counts.float()).repeat_interleave(length)[positions]
    losses = _weighted_token_losses(model, batch, positions, target_ids, weight)
    # Every position is written once and each row summed on its own: the same value in any batch, without atomics.
    spread = losses.new_zeros(rows * length).index_copy(0, positions, losses)
    return spread.view(rows, length).sum(dim=1)


def keep_head_input_contiguous(model: nn.Module) -> None:
    """Let a model's output head copy its input where that is not contiguous, as the last positions of a batch are.

    On a CPU, PyTorch multiplies such an input as a batch of matrices, with a copy of the weights for each row: 2.3 GB
    for 40 rows of SmolLM2-135M in bfloat16, and three times the time of the pass.
    """
    causal_lm: Any = model
    head: nn.Module = causal_lm.get_output_embeddings()
    head.register_forward_pre_hook(lambda _, inputs: tuple(each.contiguous() for each in inputs))


def logits_at(model: nn.Module, batch: Mapping[str, Tensor], positions: Tensor) -> Tensor:
    """Compute the logits at some positions of a batch only.

    Args:
        model: A causal language model, with or without a PEFT wrapper around it.
        batch: input_ids and attention_mask, int64 (B, T), padded on the right.
        positions: int64 (k,), row * T + column.

    Returns:
        float32 (k, vocabulary), on the device of the output head.
    """
    wrapped: Any = model
    causal_lm = wrapped.get_base_model() if hasattr(wrapped, "get_base_model") else wrapped
    if causal_lm.config.model_type not in _PLAIN_HEADS:
        output = wrapped(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
        logits: Tensor = output.logits.flatten(0, 1)
        return logits.index_select(0, positions.to(logits.device)).float()
    hidden = causal_lm.get_decoder()(input_ids=batch["input_ids"], use_cache=False)[0]
    hidden = hidden.flatten(0, 1).index_select(0, positions.to(hidden.device))
    logits = causal_lm.get_output_embeddings()(hidden).float()
    cap = getattr(causal_lm.config, "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)


def _weighted_token_losses(
    model: nn.Module, batch: Mapping[str, Tensor], positions: Tensor, target_ids: Tensor, weight: Tensor
) -> Tensor:
    """Compute the cross-entropy at flat `positions` times `weight`: float32 (answer tokens,)."""
    wrapped: Any = model
    causal_lm = wrapped.get_base_model() if hasattr(wrapped, "get_base_model") else wrapped
    config = causal_lm.config
    if config.model_type not in _PLAIN_HEADS:
        output = wrapped(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
        logits = output.logits.flatten(0, 1).index_select(0, positions).float()
        return F.cross_entropy(logits, target_ids.to(logits.device), reduction="none").to(weight.device) * weight
    # Causal attention never sees the padding, which is on the right: without a mask it keeps its fast causal path.
    hidden = causal_lm.get_decoder()(input_ids=batch["input_ids"], use_cache=False)[0]
    hidden = hidden.flatten(0, 1).index_select(0, positions.to(hidden.device))
    head = causal_lm.get_output_embeddings()
    cap = getattr(config, "final_logit_softcapping", None)
    chunk = max(1, _LOGITS_PER_CHUNK // config.vocab_size)
    frozen_head = not any(parameter.requires_grad for parameter in head.parameters())
    if frozen_head and hidden.requires_grad and torch.is_grad_enabled():
        losses: Tensor = _FrozenHeadLoss.apply(  # type: ignore[no-untyped-call]
            hidden, head, target_ids, weight, cap, chunk
        )
        return losses
    parts = [_chunk_losses(head, *part, cap) for part in _chunks(hidden, target_ids, weight, chunk)]
    return torch.cat(parts)


def _chunks(hidden: Tensor, target_ids: Tensor, weight: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    for start in range(0, len(target_ids), size):
        part = slice(start, start + size)
        yield hidden[part], target_ids[part], weight[part]


def _chunk_losses(head: nn.Module, hidden: Tensor, target_ids: Tensor, weight: Tensor, cap: float | None) -> Tensor:
    logits = head(hidden).float()
    if cap is not None:
        logits = cap * torch.tanh(logits / cap)
    # If the model is spread over devices, its head may be on another one than its first layer.
    losses = F.cross_entropy(logits, target_ids.to(logits.device), reduction="none")
    return losses.to(weight.device) * weight


class _FrozenHeadLoss(torch.autograd.Function):
    """Token losses whose gradient with respect to the hidden states is computed in the forward pass, in chunks."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: nn.Module, target_ids: Tensor, weight: Tensor, cap: float | None, chunk: int
    ) -> Tensor:
        losses, gradients = [], []
        with torch.enable_grad():
            for states, ids, weights in _chunks(hidden.detach(), target_ids, weight, chunk):
                states = states.requires_grad_()  # noqa: PLW2901
                part = _chunk_losses(head, states, ids, weights, cap)
                gradients.append(torch.autograd.grad(part.sum(), states)[0])
                losses.append(part.detach())
        ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        # If the model is spread over devices, the head may be on another one than the labels.
        scale = upstream[0].to(gradient.device).unsqueeze(1)
        return (gradient * scale).to(gradient.dtype), None, None, None, None, None
