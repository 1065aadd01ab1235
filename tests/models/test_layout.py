"""What a sentence-transformers folder can say, and what of it is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from instsel.config.study import Embedding
from instsel.errors import InputError
from instsel.models.layout import load_pooling

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
