"""The loss of every example of a batch: mean cross-entropy over its answer tokens."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instsel.data.batching import IGNORED

# Families whose logits are head(decoder(ids)), softcapped where the config says so. Any other family may scale its
# logits in its own way, so its own forward is asked for them.
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
    """Mean cross-entropy of each example over its own answer tokens (LESS, arXiv 2402.04333, section 2).

    Logits are formed only at the positions that predict an answer token, a chunk at a time. Where the output head is
    frozen, a chunk's gradient is taken while its logits are there, so that no more than one chunk of them is held. Only
    modules are called, never raw weights, so sharded parameters (ZeRO-3) are gathered by their own hooks. Where a
    wrapper must see the forward pass (DeepSpeed, DDP), wrap a module whose forward calls this function.

    Args:
        model: A causal language model, with or without a PEFT wrapper around it.
        batch: input_ids (B, T), attention_mask (B, T) and labels (B, T), int64, padded on the right; a label of -100 is
            not supervised, and the label at position t is predicted from the positions before t.

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
    wanted = targets.flatten()[positions]
    share = (1.0 / counts.float()).repeat_interleave(length)[positions]
    losses = _weighted_token_losses(model, batch, positions, wanted, share)
    # Every position is written once and each row is summed by itself: the same value in any batch, without atomics.
    spread = losses.new_zeros(rows * length).index_copy(0, positions, losses)
    return spread.view(rows, length).sum(dim=1)


def _weighted_token_losses(
    model: nn.Module, batch: Mapping[str, Tensor], positions: Tensor, wanted: Tensor, share: Tensor
) -> Tensor:
    """Cross-entropy at flat `positions` times `share`: float32 (answer tokens,)."""
    whole: Any = model
    causal_lm = whole.get_base_model() if hasattr(whole, "get_base_model") else whole
    config = causal_lm.config
    if config.model_type not in _PLAIN_HEADS:
        output = whole(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
        logits = output.logits.flatten(0, 1).index_select(0, positions).float()
        return F.cross_entropy(logits, wanted.to(logits.device), reduction="none").to(share.device) * share
    # Causal attention never looks right, where the padding is: it needs no mask, and keeps its fast causal path.
    hidden = causal_lm.get_decoder()(input_ids=batch["input_ids"], use_cache=False)[0]
    hidden = hidden.flatten(0, 1).index_select(0, positions.to(hidden.device))
    head = causal_lm.get_output_embeddings()
    cap = getattr(config, "final_logit_softcapping", None)
    chunk = max(1, _LOGITS_PER_CHUNK // config.vocab_size)
    frozen_head = not any(parameter.requires_grad for parameter in head.parameters())
    if frozen_head and hidden.requires_grad and torch.is_grad_enabled():
        return _FrozenHeadLoss.apply(hidden, head, wanted, share, cap, chunk)
    parts = [_chunk_losses(head, *part, cap) for part in _chunks(hidden, wanted, share, chunk)]
    return torch.cat(parts)


def _chunks(hidden: Tensor, wanted: Tensor, share: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    for start in range(0, len(wanted), size):
        part = slice(start, start + size)
        yield hidden[part], wanted[part], share[part]


def _chunk_losses(head: nn.Module, hidden: Tensor, wanted: Tensor, share: Tensor, cap: float | None) -> Tensor:
    logits = head(hidden).float()
    if cap is not None:
        logits = cap * torch.tanh(logits / cap)
    # A model spread over devices may hold its head on another one than its first layer.
    losses = F.cross_entropy(logits, wanted.to(logits.device), reduction="none")
    return losses.to(share.device) * share


class _FrozenHeadLoss(torch.autograd.Function):
    """Token losses whose gradient with respect to the hidden states is formed in the forward pass, chunk by chunk."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: nn.Module, wanted: Tensor, share: Tensor, cap: float | None, chunk: int
    ) -> Tensor:
        losses, gradients = [], []
        with torch.enable_grad():
            for states, words, weights in _chunks(hidden.detach(), wanted, share, chunk):
                states = states.requires_grad_()
                part = _chunk_losses(head, states, words, weights, cap)
                gradients.append(torch.autograd.grad(part.sum(), states)[0])
                losses.append(part.detach())
        ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        # Of a model spread over devices the head may be on another one than the labels.
        scale = upstream[0].to(gradient.device).unsqueeze(1)
        return (gradient * scale).to(gradient.dtype), None, None, None, None, None
