"""What every contender works on: the same rows, and one model with the same LoRA weights in each dtype."""

import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from instsel.data.batching import IGNORED, Example, collate
from instsel.errors import InputError
from instsel.models.loss import answer_losses

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]
WARMUP_ROWS = 8
_WARMUP_RATE = 1e-3
# The shapes of Llama-3.2-1B and Llama-2-7B; "tiny" shows in seconds whether everything runs on a machine.
RANDOM_LLAMAS: dict[str, dict[str, Any]] = {
    "tiny": {
        "vocab_size": 384,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "1b": {
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "tie_word_embeddings": True,
    },
    "7b": {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
    },
}

Moments = dict[str, tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class ModelSpec:
    """Which model to load: a Hugging Face folder, or a random Llama of a size in RANDOM_LLAMAS."""

    folder: str | None
    random_llama: str | None
    rank: int
    device: str
    seed: int


@dataclass(frozen=True)
class Workload:
    """Everything the contenders share.

    Attributes:
        models: by dtype name, with the same trained LoRA matrices, float32.
        moments: AdamW's, by parameter name, on the CPU.
        examples: the measured rows.
        batches: their indices, within `budget` tokens a batch, padding included.
        dim: of the sketch and of the dense projection.
        less_rows: rows that LESS's way is measured on, as it is slow.
        seed: of the dense projection; the sketch's default is 0.
    """

    models: dict[str, nn.Module]
    moments: Moments
    examples: Sequence[Example]
    batches: list[list[int]]
    budget: int
    dim: int
    less_rows: int
    seed: int
    device: str

    @property
    def tokens(self) -> int:
        """Tokens of the measured rows, without padding."""
        return count_tokens(self.examples)


def count_tokens(examples: Sequence[Example]) -> int:
    """Tokens without padding."""
    return sum(len(example["input_ids"]) for example in examples)


def load_model(spec: ModelSpec, dtype: torch.dtype) -> nn.Module:
    """The model in `dtype` with fresh float32 LoRA matrices on the attention, the same for the same seed."""
    from peft import LoraConfig, get_peft_model

    base = _random_llama(spec, dtype) if spec.folder is None else _from_folder(spec.folder, dtype)
    base.config.use_cache = False
    config = LoraConfig(
        r=spec.rank, lora_alpha=2 * spec.rank, lora_dropout=0.0, target_modules=TARGETS, task_type="CAUSAL_LM"
    )
    torch.manual_seed(spec.seed)
    return get_peft_model(base.to(spec.device), config)


def _from_folder(folder: str, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    return AutoModelForCausalLM.from_pretrained(str(Path(folder).expanduser()), dtype=dtype)


def _random_llama(spec: ModelSpec, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(spec.seed)
    # Drawn in bf16 whatever is asked for, so that both dtypes hold the same weights; on the device, as that is faster.
    with torch.device(spec.device):
        model = AutoModelForCausalLM.from_config(load_config(spec), dtype=torch.bfloat16)
    return model if dtype == torch.bfloat16 else model.to(dtype)


def load_config(spec: ModelSpec) -> Any:
    """The model's transformers configuration."""
    from transformers import AutoConfig, LlamaConfig

    if spec.random_llama is not None:
        return LlamaConfig(**RANDOM_LLAMAS[spec.random_llama], max_position_embeddings=4096)
    return AutoConfig.from_pretrained(str(Path(str(spec.folder)).expanduser()))


def prepare_models(
    spec: ModelSpec, dtypes: Sequence[str], rows: Sequence[Example], steps: int
) -> tuple[dict[str, nn.Module], Moments]:
    """Loads the model in each dtype, trains LoRA on the first for a few steps, and gives all the same matrices.

    Args:
        spec: The model.
        dtypes: Names in DTYPES, at least one.
        rows: Rows to train on, other ones than are measured.
        steps: AdamW steps of WARMUP_ROWS rows each.

    Returns:
        The models by dtype name, and the moments AdamW was left with.
    """
    models = {name: load_model(spec, DTYPES[name]) for name in dtypes}
    first = models[dtypes[0]]
    moments = train(first, rows, steps, spec.seed)
    trained = {name: value for name, value in first.named_parameters() if value.requires_grad}
    for model in models.values():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.data.copy_(trained[name].data)
        # Memory-mapped weights come into memory, and libraries are set up, before anything is measured.
        answer_losses(model, collate(rows[:1], device=spec.device)).sum().backward()
        model.zero_grad()
    return models, moments


def train(model: nn.Module, rows: Sequence[Example], steps: int, seed: int) -> Moments:
    """Trains the LoRA matrices with AdamW and returns its moments by parameter name, float32 on the CPU."""
    trainable = {name: value for name, value in model.named_parameters() if value.requires_grad}
    optimizer = torch.optim.AdamW(trainable.values(), lr=_WARMUP_RATE, weight_decay=0.0)
    draw = _row_order(len(rows), seed)
    for _ in range(steps):
        batch = collate([rows[next(draw)] for _ in range(WARMUP_ROWS)], device=next(model.parameters()).device)
        answer_losses(model, batch).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    states = {name: optimizer.state[value] for name, value in trainable.items()}
    return {name: (state["exp_avg"].cpu(), state["exp_avg_sq"].cpu()) for name, state in states.items()}


def _row_order(count: int, seed: int) -> Iterator[int]:
    random = np.random.default_rng(seed)
    while True:
        yield from random.permutation(count).tolist()


def synthetic_rows(count: int, length: int, vocabulary: int, seed: int) -> list[Example]:
    """Rows of random tokens, all of one length; the second half of each is its answer."""
    tokens = np.random.default_rng(seed).integers(0, vocabulary, size=(count, length)).tolist()
    return [{"input_ids": row, "labels": [IGNORED] * (length // 2) + row[length // 2 :]} for row in tokens]


def read_rows(path: str, model_folder: str, least: int, most: int) -> list[Example]:
    """The first `most` conversations of a JSONL file (.gz or not) as the model's chat template renders them.

    Raises:
        InputError: There is no such file, it has fewer than `least` rows, or a row has no `messages` that end with an
            answer.
    """
    from transformers import AutoTokenizer

    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(f"--rows: file {path} does not exist; correct the path")
    tokenizer = AutoTokenizer.from_pretrained(str(Path(model_folder).expanduser()))
    examples: list[Example] = []
    with gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if len(examples) == most:
                break
            messages = _messages(line)
            if not messages or messages[-1].get("role") != "assistant":
                raise InputError(f"{file.name}, line {number}: expected `messages` that end with an assistant turn")
            examples.append(encode(tokenizer, messages))
    if len(examples) < least:
        raise InputError(f"{file.name} has {len(examples)} rows; {least} are needed, to measure and to warm up on")
    return examples


def _messages(line: str) -> Any:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None
    return row.get("messages") if isinstance(row, dict) else None


def encode(tokenizer: Any, messages: list[dict[str, str]]) -> Example:
    """Token ids of a conversation, labelled in its assistant turns, through the mark that ends a turn.

    `instsel.data.chat.encode`, with its checks and its templates without a generation prompt, needs pydantic.
    """
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    spans = []
    for turn, message in enumerate(messages):
        if message["role"] == "assistant":
            before = tokenizer.apply_chat_template(messages[:turn], tokenize=False, add_generation_prompt=True)
            through = tokenizer.apply_chat_template(messages[: turn + 1], tokenize=False)
            spans.append((len(before), len(through.rstrip())))
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    labels = [
        token if any(low <= start < end <= high for low, high in spans) else IGNORED
        for token, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    ]
    return {"input_ids": encoded["input_ids"], "labels": labels}
