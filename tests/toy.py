"""A toy model and a toy study: a random Llama, questions about baskets and trains, and a pool with some of each."""

import json
from pathlib import Path
from typing import Any

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
VOCABULARY = 384
FRUITS = ["apples", "pears", "plums", "figs", "limes", "melons", "dates", "grapes"]
CITIES = ["Oslo", "Lima", "Cairo", "Quito", "Delhi", "Seoul", "Paris", "Rome", "Bern", "Accra"]


def write_toy_model(folder: Path) -> None:
    """Write the folder of a random two-layer Llama with a byte-level BPE tokenizer and a ChatML template."""
    import torch
    from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
    from tokenizers.models import BPE
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    lines = [f"A basket holds {place} {fruit} and the train goes to {city}." for place, (fruit, city) in pairs(40)]
    tokenizer.train_from_iterator(lines, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHAT_TEMPLATE
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
        initializer_range=0.1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def write_toy_study(
    folder: Path,
    model: Path,
    /,
    pool_rows: int = 24,
    validation_rows: int = 4,
    heldout_rows: int = 4,
    **parts: Any,
) -> dict[str, Any]:
    """Write a small pool and two targets into a folder, and return the study over them as a study file's keys.

    The pool has rows like each target's (sources `baskets` and `trains`) and rows like neither (`letters`).

    Args:
        folder: for the rows and, below it, for the study.
        model: folder that `write_toy_model` wrote.
        pool_rows: of the pool.
        validation_rows: of each target.
        heldout_rows: of each target.
        **parts: replace whole top-level keys.
    """
    kinds = [_basket, _train, _letters]
    write_jsonl(folder / "pool/rows.jsonl", [kinds[number % 3](number) for number in range(pool_rows)])
    targets = {}
    for name, row in (("sums", _basket), ("cities", _train)):
        numbers = range(1000, 1000 + validation_rows + heldout_rows)
        rows = [row(number) for number in numbers]
        write_jsonl(folder / f"targets/{name}/validation.jsonl", rows[:validation_rows])
        write_jsonl(folder / f"targets/{name}/heldout.jsonl", rows[validation_rows:])
        targets[name] = {
            "validation": f"targets/{name}/validation.jsonl",
            "heldout": f"targets/{name}/heldout.jsonl",
        }
    study = {
        "name": "tiny",
        "out": str(folder / "study"),
        "root": str(folder),
        "model": {"name": str(model), "dtype": "float32"},
        "pool": [{"path": "pool/*.jsonl"}],
        "targets": targets,
        "data": {"max_length": 128, "shard_rows": 8},
        "lora": {"rank": 2, "alpha": 4.0},
        "warmup": {"share": 0.5, "epochs": 2, "learning_rate": 1e-2, "batch_size": 4},
        "features": {"dim": 64, "token_budget": 512},
        "selection": {"budget": 0.25, "methods": ["random", "less", "bids"]},
        "finetune": {"epochs": 1, "learning_rate": 1e-2, "batch_size": 4},
        "resources": {"trial_workers": 1, "training_workers": 1, "actors": 1},
        "evaluation": {"token_budget": 512, "bootstrap_samples": 100},
    }
    return {**study, **parts}


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    """Write rows as JSONL."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def pairs(count: int) -> list[tuple[int, tuple[str, str]]]:
    """Numbers with a fruit and a city each."""
    return [(n, (FRUITS[n % len(FRUITS)], CITIES[(n // 3) % len(CITIES)])) for n in range(count)]


def _basket(number: int) -> dict[str, Any]:
    fruit = FRUITS[number % len(FRUITS)]
    question = f"A basket holds {number} {fruit}, and {number % 7} more {fruit} come. How many?"
    return _row(question, str(number + number % 7), "baskets", "sum")


def _train(number: int) -> dict[str, Any]:
    city = CITIES[number % len(CITIES)]
    return _row(f"Train {number} goes to the capital {city}. Where is it going?", f"To {city}.", "trains", "city")


def _letters(number: int) -> dict[str, Any]:
    return _row(f"Write letter {number % 26} of the alphabet, row {number}.", chr(97 + number % 26), "letters", "write")


def _row(question: str, answer: str, source: str, task: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "source": source, "task": task}
