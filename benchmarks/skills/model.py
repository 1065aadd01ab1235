"""The base model: a small Llama trained from nothing on the skills, its tokenizer of single symbols, and its LoRA.

Fine-tuning is a plain loop here. The product's own (`instsel.training.loop`) needs DeepSpeed and a process group, which
take longer to start than an arm takes to train; order, batches and learning rates are those of the product.
"""

import copy
import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.skills.world import SKILLS, SYMBOLS, Row
from instsel.config.study import Lora
from instsel.data.batching import IGNORED, Example, collate, token_budget_batches
from instsel.models.loading import attach_lora
from instsel.models.loss import answer_losses
from instsel.training.schedule import epoch_order, global_batches, learning_rate_at, steps_per_epoch

Moments = dict[str, tuple[Tensor, Tensor]]

PAD, END = "<pad>", "<end>"
ASK = " ="
# The name of a skill is one token, so that a row is not mostly name.
VOCABULARY = {
    token: number for number, token in enumerate([PAD, END, ASK, *SYMBOLS, *(f"{skill}: " for skill in SKILLS)])
}
# The user's turn ends in " =", after which the model answers.
TEMPLATE = (
    "{% for message in messages %}{{ message.content }}"
    "{% if message.role == 'user' %}" + ASK + "{% else %}" + END + "{% endif %}{% endfor %}"
)
TOKEN_BUDGET = 2048
_BASE_STREAM = 1


@dataclass(frozen=True)
class BaseSettings:
    """How the base model is made.

    Attributes:
        hidden: width of the residual stream.
        intermediate: width inside a block's MLP.
        layers: blocks.
        heads: of attention.
        steps: of AdamW, from random weights.
        batch_size: rows of a step.
        learning_rate: its peak, after 10 % of the steps; it falls to 0 linearly.
        trivial: share of rows that are so short that nothing is to be learned from them.
        weights: how often a skill is drawn; 1 where it is not named.
        seed: of weights and rows.
    """

    hidden: int
    intermediate: int
    layers: int
    heads: int
    steps: int
    batch_size: int
    learning_rate: float
    trivial: float
    weights: Mapping[str, float]
    seed: int


@dataclass(frozen=True)
class TuneSettings:
    """How LoRA is trained on the rows of an arm.

    Attributes:
        rank: of LoRA, on the modules that the product has by default: those of attention.
        epochs: passes over the rows.
        batch_size: rows of a step.
        learning_rate: its peak; it falls linearly, after 3 % of the steps in which it rises.
    """

    rank: int
    epochs: int
    batch_size: int
    learning_rate: float


def build_tokenizer() -> Any:
    """Build a fast tokenizer that has a token for each symbol and each skill, with the chat template of the rows."""
    from tokenizers import Regex, Tokenizer
    from tokenizers.decoders import Fuse
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(WordLevel(VOCABULARY, unk_token=PAD))
    tokenizer.pre_tokenizer = Split(Regex("[a-z]+: | =|."), "isolated")
    tokenizer.decoder = Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END)
    fast.chat_template = TEMPLATE
    return fast


def encode(row: Row) -> Example:
    """Encode a row as `instsel.data.chat.encode` does with the tokenizer above, which takes a hundred times longer."""
    prompt = [VOCABULARY[token] for token in (f"{row.skill}: ", *row.text, ASK)]
    answer = [*(VOCABULARY[symbol] for symbol in row.answer), VOCABULARY[END]]
    return {"input_ids": prompt + answer, "labels": [IGNORED] * len(prompt) + answer}


def prompt_of(example: Example) -> Example:
    """Return an encoded row without its answer."""
    end = sum(label == IGNORED for label in example["labels"])
    return {"input_ids": example["input_ids"][:end], "labels": example["labels"][:end]}


def without_end(example: Example) -> Example:
    """Return an encoded row without the mark at the end of its answer."""
    return {"input_ids": example["input_ids"][:-1], "labels": example["labels"][:-1]}


def load_base(settings: BaseSettings, skills: Sequence[str], cache: Path) -> nn.Module:
    """Return the base model, frozen; it is trained where the cache has none of these settings.

    Args:
        settings: of the model and its training.
        skills: what it is trained on.
        cache: folder of trained models.
    """
    from transformers import LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    recipe = json.dumps([asdict(settings), list(skills)], sort_keys=True)
    folder = cache / f"base-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}"
    if not folder.is_dir():
        model = train_base(settings, skills)
        cache.mkdir(parents=True, exist_ok=True)
        # Renamed when it is whole, so that an interrupted run leaves no half of a model.
        with tempfile.TemporaryDirectory(dir=cache, prefix=".base-") as scratch:
            written = Path(scratch, "model")
            model.save_pretrained(written, safe_serialization=True)
            build_tokenizer().save_pretrained(written)
            written.rename(folder)
    model = LlamaForCausalLM.from_pretrained(folder, use_safetensors=True)
    base: nn.Module = model.requires_grad_(False).eval()
    return base


def train_base(settings: BaseSettings, skills: Sequence[str]) -> Any:
    """Train the base model from random weights on right rows of the skills, drawn anew at each step."""
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(VOCABULARY),
                hidden_size=settings.hidden,
                intermediate_size=settings.intermediate,
                num_hidden_layers=settings.layers,
                num_attention_heads=settings.heads,
                max_position_embeddings=64,
                tie_word_embeddings=True,
                bos_token_id=None,
                eos_token_id=VOCABULARY[END],
                pad_token_id=VOCABULARY[PAD],
                use_cache=False,
            )
        )
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=0.01)
    rows = _stream(settings, skills)
    for step in range(settings.steps):
        rate = learning_rate_at(step, settings.steps, settings.learning_rate, "linear", 0.1)
        _step(model, optimizer, [next(rows) for _ in range(settings.batch_size)], rate)
    return model


def _stream(settings: BaseSettings, skills: Sequence[str]) -> Iterator[Example]:
    draw = np.random.default_rng([_BASE_STREAM, settings.seed])
    weights = np.array([settings.weights.get(skill, 1.0) for skill in skills])
    chances = weights / weights.sum()
    while True:
        for number in draw.choice(len(skills), size=settings.batch_size, p=chances).tolist():
            skill = skills[number]
            text = SKILLS[skill].draw(draw, bool(draw.random() < settings.trivial))
            yield encode(Row("", skill, "right", text, SKILLS[skill].answer(text)))


def tune(base: nn.Module, examples: Sequence[Example], settings: TuneSettings, seed: int) -> tuple[nn.Module, Moments]:
    """Train new LoRA matrices on a copy of the base model.

    Args:
        base: frozen; left as it is.
        examples: rows to train on.
        settings: of LoRA and its training.
        seed: of the matrices and of the order of rows.

    Returns:
        The PEFT model in evaluation mode, and AdamW's moments by parameter name.
    """
    lora = Lora(rank=settings.rank, alpha=2.0 * settings.rank)
    model = attach_lora(copy.deepcopy(base), lora, seed)
    trainable = {name: value for name, value in model.named_parameters() if value.requires_grad}
    optimizer = torch.optim.AdamW(trainable.values(), lr=settings.learning_rate, weight_decay=0.0)
    total = settings.epochs * steps_per_epoch(len(examples), settings.batch_size)
    done = 0
    for epoch in range(1, settings.epochs + 1):
        for batch in global_batches(epoch_order(len(examples), epoch, seed), settings.batch_size):
            rate = learning_rate_at(done, total, settings.learning_rate, "linear", 0.03)
            _step(model, optimizer, [examples[index] for index in batch.tolist()], rate)
            done += 1
    states = {name: optimizer.state[value] for name, value in trainable.items()}
    moments = {name: (state["exp_avg"], state["exp_avg_sq"]) for name, state in states.items()}
    return model.eval(), moments


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, rows: Sequence[Example], rate: float) -> None:
    """Take a step of AdamW on the mean loss of some rows, gradients clipped to a norm of 1."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad()
    answer_losses(model, collate(rows)).mean().backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


@torch.no_grad()
def exact_match(model: Any, examples: Sequence[Example]) -> np.ndarray:
    """Say which answers the model gives right to the last symbol, the end mark included.

    Greedy decoding gives exactly the answer if and only if each of its tokens is the most probable one after the right
    tokens before it, so that one forward pass is enough.

    Returns:
        bool (n,).
    """
    right = np.zeros(len(examples), dtype=bool)
    for rows in token_budget_batches([len(example["input_ids"]) for example in examples], TOKEN_BUDGET):
        batch = collate([examples[row] for row in rows])
        best = model(input_ids=batch["input_ids"], use_cache=False).logits.argmax(dim=-1)[:, :-1]
        labels = batch["labels"][:, 1:]
        right[rows] = ((best == labels) | (labels == IGNORED)).all(dim=1).numpy()
    return right
