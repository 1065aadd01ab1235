"""Tiny random models of several families, with LoRA as a user would attach it, and examples for them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

VOCABULARY = 97

_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GPT2 = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {**_SIZES, "tie_word_embeddings": True},
    "qwen2": _SIZES,
    "qwen3": _SIZES,
    "mistral": {**_SIZES, "sliding_window": 8},
    "gemma2": {**_SIZES, "final_logit_softcapping": 5.0, "attn_logit_softcapping": 10.0, "sliding_window": 8},
    "gemma3_text": {**_SIZES, "sliding_window": 8},
    "gpt2": {**_GPT2, "bos_token_id": 1, "eos_token_id": 2, "resid_pdrop": 0.1, "attn_pdrop": 0.1, "embd_pdrop": 0.1},
    "granite": {**_SIZES, "logits_scaling": 3.0},
}


def build(family: str, dtype: torch.dtype = torch.float32) -> Any:
    """A tiny causal language model of a family, its weights large enough that logits differ."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **FAMILIES[family])
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.15)
    return model


def attach_lora(model: Any, **options: Any) -> Any:
    """LoRA on the attention, with B away from zero so that A has a gradient too."""
    from peft import LoraConfig, get_peft_model

    targets = ["c_attn", "c_proj"] if model.config.model_type == "gpt2" else ["q_proj", "k_proj", "v_proj", "o_proj"]
    chosen = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "target_modules": targets, "task_type": "CAUSAL_LM"}
    adapted = get_peft_model(model, LoraConfig(**{**chosen, **options}))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return adapted


@pytest.fixture
def lora_model() -> Callable[..., Any]:
    """Makes a tiny model of a family with LoRA attached."""

    def make(family: str = "llama", dtype: torch.dtype = torch.float32, **options: Any) -> Any:
        return attach_lora(build(family, dtype), **options)

    return make


@pytest.fixture
def add_lora() -> Callable[..., Any]:
    """Attaches LoRA to a model."""
    return attach_lora


@pytest.fixture
def plain_model() -> Callable[..., Any]:
    """Makes a tiny model of a family without an adapter."""
    return build


def examples(count: int, seed: int = 0, longest: int = 20) -> list[dict[str, list[int]]]:
    """Random examples of unlike lengths: a prompt, then an answer."""
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        length = int(random.integers(3, longest + 1))
        tokens = random.integers(3, VOCABULARY, size=length).tolist()
        prompt = int(random.integers(1, length))
        rows.append({"input_ids": tokens, "labels": [-100] * prompt + tokens[prompt:]})
    return rows


@pytest.fixture
def make_examples() -> Callable[..., list[dict[str, list[int]]]]:
    """Makes random examples."""
    return examples


def autograd_gradients(model: nn.Module, rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """The oracle: Hugging Face's own loss and torch's autograd, one example at a time, without padding."""
    trainable = {name: value for name, value in model.named_parameters() if value.requires_grad}
    was_training = model.training
    model.eval()
    found: dict[str, list[torch.Tensor]] = {name: [] for name in trainable}
    for row in rows:
        loss = model(input_ids=torch.tensor([row["input_ids"]]), labels=torch.tensor([row["labels"]])).loss
        for name, gradient in zip(
            trainable, torch.autograd.grad(loss, list(trainable.values()), materialize_grads=True), strict=True
        ):
            found[name].append(gradient.detach().float())
    model.train(was_training)
    return {name: torch.stack(values) for name, values in found.items()}


@pytest.fixture
def oracle() -> Callable[..., dict[str, torch.Tensor]]:
    """Gradients by autograd, one example at a time."""
    return autograd_gradients
