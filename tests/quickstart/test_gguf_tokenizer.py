import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer, LlamaConfig

from instsel.quickstart.gguf_tokenizer import tokenizer_of

TEXTS = [
    "",
    "how many apples? 1234567 and 3.14",
    "  two blanks,\n\n\ttabs  ",
    "don't THEY'RE we'll",
    "naïve café 日本語 🙂 ½ ² Ⅷ ٣٤",
    "<|im_start|>user\nhi<|im_end|>",
    "\r\n\x00\x7f",
]


@pytest.mark.parametrize("text", TEXTS)
def test_same_tokens_as_the_tokenizer_described(
    text: str, smollm_tokenizer: Tokenizer, tokenizer_metadata: dict[str, Any]
) -> None:
    tokenizer = tokenizer_of(tokenizer_metadata)

    assert tokenizer(text)["input_ids"] == smollm_tokenizer.encode(text).ids
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_any_text_comes_back(tokenizer_metadata: dict[str, Any], smollm_tokenizer: Tokenizer) -> None:
    tokenizer = tokenizer_of(tokenizer_metadata)

    @given(st.text(max_size=40))
    def check(text: str) -> None:
        ids = tokenizer(text)["input_ids"]
        assert ids == smollm_tokenizer.encode(text).ids
        assert tokenizer.decode(ids) == text

    check()


def test_saved_folder_loads_as_the_same_tokenizer(tmp_path: Path, tokenizer_metadata: dict[str, Any]) -> None:
    """With a Llama config beside it, AutoTokenizer must not put Llama's own pre-tokenizer in place of SmolLM's."""
    tokenizer = tokenizer_of(tokenizer_metadata)
    tokenizer.save_pretrained(tmp_path)
    LlamaConfig().save_pretrained(tmp_path)

    loaded = AutoTokenizer.from_pretrained(tmp_path)

    assert [loaded(text)["input_ids"] for text in TEXTS] == [tokenizer(text)["input_ids"] for text in TEXTS]
    assert (loaded.bos_token, loaded.eos_token, loaded.pad_token, loaded.unk_token) == (
        "<|im_start|>",
        "<|im_end|>",
        "<|im_end|>",
        "<|endoftext|>",
    )
    assert loaded.model_max_length == 128
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    assert loaded.apply_chat_template(turns, tokenize=False) == (
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nho<|im_end|>\n"
    )


@pytest.mark.parametrize(
    ("key", "value"), [("tokenizer.ggml.model", "llama"), ("tokenizer.ggml.pre", "qwen2"), ("tokenizer.ggml.pre", None)]
)
def test_another_kind_of_tokenizer_is_refused(key: str, value: str | None, tokenizer_metadata: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"tokenizer.ggml.model and .pre.*{value}"):
        tokenizer_of(tokenizer_metadata | {key: value})


def test_a_missing_chat_template_is_named(tokenizer_metadata: dict[str, Any]) -> None:
    del tokenizer_metadata["tokenizer.chat_template"]
    with pytest.raises(ValueError, match=re.escape("tokenizer.chat_template")):
        tokenizer_of(tokenizer_metadata)
