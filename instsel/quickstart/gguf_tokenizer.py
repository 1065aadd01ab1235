"""Build a fast tokenizer from the metadata of a GGUF file."""

from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

_CONTROL = 3  # token_type of special tokens in GGUF


def tokenizer_of(metadata: dict[str, Any]) -> PreTrainedTokenizerFast:
    """Build the tokenizer that the GGUF keys `tokenizer.*` describe, with the chat template.

    Args:
        metadata: GGUF keys and their values.

    Raises:
        ValueError: The tokenizer is not byte-level BPE with SmolLM's pre-tokenizer, or a key is missing.
    """
    kind = (metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre"))
    if kind != ("gpt2", "smollm"):
        raise ValueError(f"GGUF keys tokenizer.ggml.model and .pre are {kind}; only ('gpt2', 'smollm') is converted")
    if "tokenizer.chat_template" not in metadata:
        raise ValueError("the GGUF file has no key tokenizer.chat_template")
    tokens = metadata["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in metadata["tokenizer.ggml.merges"]]
    bpe = Tokenizer(BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges))
    # SmolLM's pre-tokenizer: every digit by itself, then GPT-2's byte-level words.
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    types = metadata["tokenizer.ggml.token_type"]
    special = [token for token, kind_of_token in zip(tokens, types, strict=True) if kind_of_token == _CONTROL]
    bpe.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    named = {
        f"{role}_token": tokens[metadata[key]]
        for role, key in (
            ("bos", "tokenizer.ggml.bos_token_id"),
            ("eos", "tokenizer.ggml.eos_token_id"),
            ("unk", "tokenizer.ggml.unknown_token_id"),
            ("pad", "tokenizer.ggml.padding_token_id"),
        )
        if key in metadata
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        chat_template=metadata["tokenizer.chat_template"],
        model_max_length=metadata["llama.context_length"],
        clean_up_tokenization_spaces=False,
        **named,
    )
