"""What is wrong with a model by its files and configuration, on real folders of tiny models of several families."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BertConfig, GPT2Config, Phi3Config

from instsel.config.study import Embedding, Lora, Model
from instsel.models.checks import (
    encoder_problems,
    lora_problems,
    model_problems,
    position_problems,
    vocabulary_problems,
    weight_problems,
)
from instsel.models.loading import load_base
from tests.studies import least_config

SIZES = {"vocab_size": 384, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    """Copy the toy model, to be changed."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


@pytest.fixture
def look(folder: Path) -> Callable[..., list[str]]:
    """List the problems of a study on the model of `folder`, as lines."""

    def make(name: str | None = None, **parts: Any) -> list[str]:
        study = least_config(model={"name": name or str(folder)}, **{"data": {"max_length": 128}, **parts})
        return [str(problem) for problem in model_problems(study)]

    return make


def network(config: Any) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def phi3(**sizes: Any) -> Any:
    return Phi3Config(**{**SIZES, "intermediate_size": 64, "pad_token_id": 0, **sizes})


def test_a_model_that_can_be_trained_has_no_problem(look: Callable[..., list[str]]) -> None:
    assert look() == []
    assert look(lora={"target_modules": "all-linear"}) == []
    assert look(lora={"target_modules": ["down_proj", "mlp.gate_proj"]}) == []


def test_names_of_which_a_part_matches_are_told_with_the_layers_that_are_there(
    folder: Path, look: Callable[..., list[str]]
) -> None:
    phi3().save_pretrained(folder)
    (told,) = look()
    assert told == (
        "lora.target_modules: the default q_proj, k_proj, v_proj match no layer of the model, only o_proj would get "
        f"matrices; the linear layers of {folder} are o_proj, qkv_proj, gate_up_proj, down_proj: name some of these, "
        "or write all-linear"
    )
    assert look(lora={"target_modules": ["qkv_proj", "o_proj"]}) == []


@pytest.mark.parametrize(
    ("config", "targets", "told"),
    [
        (phi3(), ["q_proj"], "q_proj matches no layer of the model, nothing would be trained; the linear layers of m"),
        (phi3(), ["q_proj", "v_proj"], "q_proj, v_proj match no layer of the model, nothing would be trained"),
        # The end of a path alone does not match: PEFT wants whole names.
        (phi3(), ["proj"], "proj matches no layer"),
        (phi3(), ["qkv_proj", "embed_tokens"], "embed_tokens is no layer inside the model but its embedding or output"),
        (phi3(), ["lm_head", "embed_tokens"], "lm_head, embed_tokens are no layers inside the model"),
        (phi3(), ["mlp"], "mlp is a Phi3MLP; the linear layers of m are o_proj, qkv_proj, gate_up_proj, down_proj"),
        (GPT2Config(n_layer=2, n_head=2, n_embd=32), ["q_proj"], "the linear layers of m are c_attn, c_proj, c_fc:"),
        (GPT2Config(n_layer=2, n_head=2, n_embd=32), ["c_attn", "wte"], "wte is no layer inside the model"),
    ],
)
def test_a_name_that_cannot_be_trained_is_told(config: Any, targets: list[str], told: str) -> None:
    problems = lora_problems(network(config), Lora(target_modules=targets), "m")
    assert [problem.key for problem in problems] == ["lora.target_modules"]
    assert told in problems[0].message


def test_names_that_match_are_those_that_peft_matches() -> None:
    from peft import LoraConfig, get_peft_model

    targets = ["c_attn", "mlp.c_proj", "h.0.mlp.c_fc"]
    model = network(GPT2Config(n_layer=2, n_head=2, n_embd=32))
    assert lora_problems(model, Lora(target_modules=targets), "m") == []
    adapted: Any = get_peft_model(model, LoraConfig(target_modules=targets, fan_in_fan_out=True))
    assert sorted(adapted.targeted_module_names) == sorted(
        [f"transformer.h.{n}.{name}" for n in (0, 1) for name in ("attn.c_attn", "mlp.c_proj")]
        + ["transformer.h.0.mlp.c_fc"]
    )


def test_weights_that_are_pickles_alone_are_told_with_how_to_convert_them(
    folder: Path, look: Callable[..., list[str]]
) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    assert look() == []
    (folder / "model.safetensors").unlink()
    (told,) = look()
    assert told.startswith(f"model.name: {folder} has its weights in pytorch_model.bin alone, a pickle, which can run")
    # The command that it gives does it.
    command = told.split('python -c "')[1].rstrip('"')
    exec(command)
    assert look() == []
    assert load_base(Model(name=str(folder), dtype="float32")).config.vocab_size == 384


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, "has no weights: neither model.safetensors nor model.safetensors.index.json is there"),
        ({"model.gguf": "x"}, "has no weights"),
        ({"a.bin": "x", "b.bin": "x"}, "has its weights in a.bin, b.bin alone"),
        (
            {"adapter_config.json": "{}", "adapter_model.safetensors": "x"},
            "is an adapter; merge it into its base model",
        ),
        ({"model.safetensors": "version https://git-lfs.github.com/spec/v1\n"}, "run `git lfs pull` there"),
        (
            {"model.safetensors.index.json": '{"weight_map": {"x": "1-of-2.safetensors", "y": "2-of-2.safetensors"}}'}
            | {"1-of-2.safetensors": "x"},
            "lacks 2-of-2.safetensors, which model.safetensors.index.json names",
        ),
        ({"model.safetensors.index.json": "["}, "index.json is damaged"),
        ({"model.safetensors.index.json": "[]"}, "index.json is damaged"),
    ],
)
def test_weights_that_are_not_there_are_told(files: dict[str, str], told: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    (problem,) = weight_problems(tmp_path, "model.name")
    assert told in problem.message


def test_weights_in_parts_are_fine(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "1.safetensors").write_text("x")
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"x": "1.safetensors"}}')
    assert weight_problems(tmp_path, "model.name") == []


def test_tokens_beyond_the_embedding_are_told(folder: Path, look: Callable[..., list[str]]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = len(tokenizer)
    tokenizer.add_tokens(["<tool>", "</tool>"])
    tokenizer.save_pretrained(folder)
    (told,) = look()
    assert told == (
        f"model.name: the tokenizer has tokens beyond the {rows} that the model has embeddings of: '<tool>' ({rows}), "
        f"'</tool>' ({rows + 1}); use the tokenizer that belongs to the model, or give it more rows by "
        "resize_token_embeddings and save it"
    )


def test_a_token_for_padding_may_lie_beyond_since_batches_do_not_use_it(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = network(AutoConfig.from_pretrained(folder))
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    assert vocabulary_problems(model, tokenizer) == []
    tokenizer.add_special_tokens({"unk_token": "<unknown>"})
    (problem,) = vocabulary_problems(model, tokenizer)
    assert "'<unknown>'" in problem.message and "<pad>" not in problem.message


def test_rows_beyond_the_positions_are_told(folder: Path, look: Callable[..., list[str]]) -> None:
    assert look(data={"max_length": 256}) == []
    assert look(data={"max_length": 257}) == [
        f"data.max_length: rows of 257 tokens are longer than the 256 positions of {folder}; lower it"
    ]


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        (GPT2Config(n_positions=64), 64),
        (phi3(max_position_embeddings=128, original_max_position_embeddings=128), 128),
        (
            AutoConfig.for_model(
                "llama",
                max_position_embeddings=64,
                rope_parameters={
                    "rope_type": "yarn",
                    "rope_theta": 1e4,
                    "factor": 4.0,
                    "original_max_position_embeddings": 64,
                },
            ),
            256,
        ),
        # Attention without positions, and a state space model.
        (AutoConfig.for_model("bloom"), None),
        (AutoConfig.for_model("mamba"), None),
    ],
)
def test_positions_are_those_of_the_configuration(config: Any, positions: int | None) -> None:
    length = positions or 10**6
    assert position_problems(config, length, "data.max_length", "m") == []
    if positions is not None:
        (problem,) = position_problems(config, positions + 1, "data.max_length", "m")
        assert f"longer than the {positions} positions of m" in problem.message


@pytest.mark.parametrize(
    ("template", "told"),
    [
        (None, "model.chat_template: the tokenizer has no chat template; set model.chat_template"),
        (
            "{% if messages %}{{ raise_exception('only one turn') }}{% endif %}",
            "model.chat_template: a question with an answer cannot be rendered: ",
        ),
        (
            "{% for message in messages %}{{ message['role'] }}{% endfor %}",
            "model.chat_template: a question with an answer cannot be rendered: ",
        ),
    ],
)
def test_a_template_that_cannot_render_a_row_is_told(
    template: str | None, told: str, folder: Path, look: Callable[..., list[str]]
) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer.save_pretrained(folder)
    (line,) = look()
    assert line.startswith(told)


def test_fault_11_a_template_without_a_token_that_ends_an_answer_is_mentioned(folder: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer.save_pretrained(folder)
    (problem,) = model_problems(least_config(model={"name": str(folder)}, data={"max_length": 128}))
    assert problem.key == "model.chat_template"
    assert f"get the tokenizer's end of text, {tokenizer.eos_token}," in problem.message
    assert not problem.is_fatal


def test_a_damaged_tokenizer_is_told(folder: Path, look: Callable[..., list[str]]) -> None:
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model": {}}')
    (line,) = look()
    assert line.startswith("model.name: no tokenizer can be loaded from " + str(folder))


def test_a_tokenizer_or_a_folder_that_is_not_there_is_told(
    folder: Path, tmp_path: Path, look: Callable[..., list[str]]
) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    assert look() == [f"model.name: {folder} has no tokenizer; save it in the model's folder"]
    assert look(str(tmp_path / "none")) == [f"model.name: folder {tmp_path}/none does not exist; correct the path"]
    assert look("./none") == ["model.name: folder ./none does not exist; correct the path"]


@pytest.mark.parametrize(
    "config", ['{"model_type": "no-such-family"}', "[", '{"model_type": "llama", "num_attention_heads": "x"}', "{}"]
)
def test_a_configuration_that_makes_no_model_is_told(config: str, folder: Path, look: Callable[..., list[str]]) -> None:
    (folder / "config.json").write_text(config)
    told = look()
    assert told and told[-1].startswith(f"model.name: {folder} cannot be built from its configuration: ")


def test_a_model_of_the_hub_that_is_not_in_the_cache_is_mentioned_only() -> None:
    study = least_config(model={"name": "no-such-owner/no-such-model"})
    (problem,) = model_problems(study)
    assert not problem.is_fatal
    assert str(problem) == (
        "model.name: no-such-owner/no-such-model is not on this machine yet; it is looked at once it is fetched"
    )
    (problem,) = encoder_problems(Embedding())
    assert not problem.is_fatal and problem.key == "embedding.encoder"


def test_a_model_in_the_cache_of_the_hub_is_looked_at(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phi3().save_pretrained(folder)
    revision = "0" * 40
    cached = tmp_path / "hub/models--owner--small"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs/main").write_text(revision)
    shutil.copytree(folder, cached / "snapshots" / revision)
    # Of a cache only what was asked for is there.
    (cached / "snapshots" / revision / "model.safetensors").unlink()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    study = least_config(model={"name": "owner/small"}, data={"max_length": 128})
    (problem,) = model_problems(study)
    assert problem.key == "lora.target_modules" and "linear layers of owner/small are" in problem.message


def test_an_encoder_is_looked_at_too(tmp_path: Path) -> None:
    BertConfig(max_position_embeddings=64).save_pretrained(tmp_path)
    assert [str(problem) for problem in encoder_problems(Embedding(encoder=str(tmp_path), max_length=65))] == [
        f"embedding.encoder: {tmp_path} has no weights: neither model.safetensors nor model.safetensors.index.json is "
        "there",
        f"embedding.max_length: rows of 65 tokens are longer than the 64 positions of {tmp_path}; lower it",
    ]
    (tmp_path / "model.safetensors").write_text("x")
    assert encoder_problems(Embedding(encoder=str(tmp_path), max_length=64)) == []


def test_a_model_of_seventy_billion_parameters_takes_neither_memory_nor_time(
    folder: Path, look: Callable[..., list[str]]
) -> None:
    large = {"hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64, "intermediate_size": 28672}
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**raw, **large, "head_dim": 128, "num_key_value_heads": 8}))
    assert look() == []
