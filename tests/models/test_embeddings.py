"""Prompts and their embeddings, against one text at a time through transformers."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from instsel.config.study import Embedding
from instsel.errors import InputError
from instsel.models.embeddings import Encoder, load_pooling

TEXTS = ["A basket of pears", "", "a train to Oslo, " * 3, "figs", "a basket of limes and a train to Rome"]


def plain(folder: Path, texts: Sequence[str], pooling: str, max_length: int) -> np.ndarray:
    from transformers import AutoTokenizer, BertModel

    tokenizer, model = AutoTokenizer.from_pretrained(folder), BertModel.from_pretrained(folder)
    vectors = []
    for text in texts:
        encoded = tokenizer(text, truncation=True, max_length=max_length, return_tensors="pt")
        with torch.no_grad():
            states = model(**encoded).last_hidden_state[0]
        vectors.append({"mean": states.mean(dim=0), "cls": states[0], "last": states[-1]}[pooling].numpy())
    return np.stack(vectors)


def embed(folder: Path, texts: Sequence[str], **keys: object) -> np.ndarray:
    settings = {"encoder": str(folder), "max_length": 20, "token_budget": 48, **keys}
    encoder = Encoder(Embedding.model_validate(settings))
    return encoder.embed(encoder.tokenise(texts))


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_batches_change_nothing_beyond_rounding(tiny_encoder: Path, pooling: str) -> None:
    vectors = embed(tiny_encoder, TEXTS, pooling=pooling)
    assert (vectors.dtype, vectors.shape) == (np.float32, (5, 32))
    np.testing.assert_allclose(vectors, plain(tiny_encoder, TEXTS, pooling, 20), atol=2e-6)


def test_embeddings_are_the_same_where_memory_runs_out(tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = embed(tiny_encoder, TEXTS)
    whole = Encoder._batch

    def narrow(encoder: Encoder, rows: list[torch.Tensor]) -> torch.Tensor:
        if len(rows) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(encoder, rows)

    monkeypatch.setattr(Encoder, "_batch", narrow)
    np.testing.assert_allclose(embed(tiny_encoder, TEXTS, token_budget=4096), expected, atol=2e-6)


def test_auto_takes_what_the_folder_says(tiny_encoder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    shutil.copytree(tiny_encoder, folder)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_lasttoken": True}))
    np.testing.assert_array_equal(embed(folder, TEXTS), embed(tiny_encoder, TEXTS, pooling="last"))
    (folder / "modules.json").unlink()
    np.testing.assert_array_equal(embed(folder, TEXTS), embed(tiny_encoder, TEXTS, pooling="mean"))


def test_what_is_beyond_the_longest_prompt_is_cut_from_its_end(tiny_encoder: Path) -> None:
    encoder = Encoder(Embedding(encoder=str(tiny_encoder), max_length=6))
    (cut,), (whole,) = encoder.tokenise([TEXTS[2]]), encoder.tokenizer([TEXTS[2]])["input_ids"]
    assert len(whole) > 6
    assert cut == [*whole[:5], whole[-1]]


def test_a_text_without_tokens_becomes_zeros(tiny_encoder: Path) -> None:
    encoder = Encoder(Embedding(encoder=str(tiny_encoder), max_length=6))
    vectors = encoder.embed([[], [2, 3]])
    assert not vectors[0].any()
    assert vectors[1].any()


def test_more_tokens_than_the_encoder_takes_are_refused(tiny_encoder: Path) -> None:
    with pytest.raises(InputError, match=r"embedding\.max_length is 65, but .* takes 64 tokens; lower it"):
        Encoder(Embedding(encoder=str(tiny_encoder), max_length=65))


def test_an_encoder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"embedding\.encoder: .*nowhere could not be loaded"):
        Encoder(Embedding(encoder=str(tmp_path / "nowhere")))


def test_a_model_with_a_decoder_is_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    from transformers import T5Config, T5Model

    shutil.copytree(tiny_encoder, tmp_path, dirs_exist_ok=True)
    T5Model(T5Config(vocab_size=200, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="has a decoder too"):
        Encoder(Embedding(encoder=str(tmp_path)))


def test_an_adapter_that_names_another_model_is_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_encoder, tmp_path, dirs_exist_ok=True)
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "evil/model"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter))
    with pytest.raises(InputError, match="is an adapter; merge it"):
        Encoder(Embedding(encoder=str(tmp_path)))


def test_what_the_folder_says_to_sentence_transformers_is_not_done(tiny_encoder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    shutil.copytree(tiny_encoder, folder)
    arguments = {"attn_implementation": "evil/kernel", "trust_remote_code": True}
    settings = {"max_seq_length": 4, "do_lower_case": True, "model_args": arguments}
    (folder / "sentence_bert_config.json").write_text(json.dumps(settings))
    np.testing.assert_array_equal(embed(folder, TEXTS), embed(tiny_encoder, TEXTS))


PLAIN = ["models.Transformer", "models.Pooling", "models.Normalize"]


@pytest.fixture
def pooling_of(tmp_path: Path):
    """Write files as an encoder's folder, and return how its texts are pooled."""

    def load(files: dict[str, Any]) -> Any:
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
        pooling = load_pooling(Embedding(encoder=str(tmp_path)), width=8)
        assert pooling.get_embedding_dimension() == 8
        return pooling.pooling_mode

    return load


def folder(kinds: list[str], pooling: dict[str, Any], **files: Any) -> dict[str, Any]:
    modules = [
        {"type": f"sentence_transformers.{kind}", "path": f"{place}_{kind.rpartition('.')[2]}" if place else ""}
        for place, kind in enumerate(kinds)
    ]
    return {"modules.json": modules, "1_Pooling/config.json": pooling, **files}


def test_a_folder_that_says_nothing_is_pooled_by_the_mean(pooling_of) -> None:
    assert pooling_of({}) == "mean"


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_lasttoken": True}, "lasttoken"),
        ({"word_embedding_dimension": 384}, "mean"),
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": ["lasttoken"]}, "lasttoken"),
    ],
)
def test_the_pooling_module_is_read_in_its_old_and_its_new_form(
    pooling_of, pooling: dict[str, Any], expected: str
) -> None:
    assert pooling_of(folder(PLAIN, pooling)) == expected
    newer = ["base.modules.transformer.Transformer", "sentence_transformer.modules.pooling.Pooling"]
    assert pooling_of(folder(newer, pooling)) == expected


@pytest.mark.parametrize(
    ("kinds", "named"),
    [
        (["models.Transformer"], "made of models.Transformer,"),
        (["models.Transformer", "models.Pooling", "models.Dense"], "models.Dense"),
        (["models.StaticEmbedding", "models.Normalize"], "models.StaticEmbedding"),
    ],
)
def test_modules_that_are_not_computed_are_refused_by_name(pooling_of, kinds: list[str], named: str) -> None:
    with pytest.raises(InputError, match=rf"embedding\.encoder: .*{named}.* set embedding\.pooling"):
        pooling_of(folder(kinds, {}))


def test_modules_with_code_of_their_own_are_refused(pooling_of) -> None:
    files = folder(PLAIN, {})
    files["modules.json"][0]["type"] = "custom_st.Transformer"
    with pytest.raises(InputError, match="custom_st.Transformer"):
        pooling_of(files)


def test_a_transformer_in_a_subfolder_is_refused(pooling_of) -> None:
    files = folder(PLAIN, {})
    files["modules.json"][0]["path"] = "0_BERT"
    with pytest.raises(InputError, match="Transformer"):
        pooling_of(files)


@pytest.mark.parametrize(
    ("pooling", "named"),
    [
        ({"pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "cls and mean"),
        ({"pooling_mode": ["mean", "max"]}, "mean and max"),
    ],
)
def test_other_poolings_are_refused_by_name(pooling_of, pooling: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=f"pools by {named}, where"):
        pooling_of(folder(PLAIN, pooling))


def test_a_prompt_before_every_text_is_refused(pooling_of) -> None:
    settings = {"default_prompt_name": "query", "prompts": {"query": "Find: "}}
    with pytest.raises(InputError, match="'query'"):
        pooling_of(folder(PLAIN, {}, **{"config_sentence_transformers.json": settings}))
    settings["default_prompt_name"] = None
    assert pooling_of(folder(PLAIN, {}, **{"config_sentence_transformers.json": settings})) == "mean"
