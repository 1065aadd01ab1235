"""Errors of a study file name the key as it is written, what it means, and the key that was probably meant."""

from typing import Any

import pytest

from instsel.config.file import load_study, parse_study
from instsel.config.schema import suggestion
from instsel.errors import InputError

LEAST: dict[str, Any] = {
    "name": "s",
    "out": "runs/s",
    "model": {"name": "m"},
    "pool": [{"path": "pool.jsonl"}],
    "targets": {"t": {"validation": "v.jsonl"}},
    "selection": {"budget": 0.1, "methods": ["random"]},
}


def lines(**parts: Any) -> list[str]:
    """Return the lines of the error about a study file with these parts."""
    with pytest.raises(InputError) as error:
        parse_study({**LEAST, **parts}, "study.yaml")
    return [line.strip() for line in str(error.value).splitlines()[1:]]


@pytest.mark.parametrize(
    ("parts", "line"),
    [
        ({"modl": {}}, "modl: unknown key; did you mean model?"),
        ({"data": {"maxlength": 64}}, "data.maxlength: unknown key; did you mean max_length?"),
        ({"finetune": {"learnig_rate": 1e-4}}, "finetune.learnig_rate: unknown key; did you mean learning_rate?"),
        ({"pool": [{"path": "a", "sorce": "b"}]}, "pool.0.sorce: unknown key; did you mean source?"),
        # A target may be called as a key of targets is.
        (
            {"targets": {"test": {"validation": "v", "heldot": "h"}}},
            "targets.test.heldot: unknown key; did you mean heldout?",
        ),
        (
            {"targets": {"t": {"validation": "v", "test": "x", "scoring": {"metric": "f1", "untl": ["."]}}}},
            "targets.t.scoring.untl: unknown key; did you mean until?",
        ),
        (
            {"selection": {"budget": 0.1, "methods": [{"method": "bids", "normalise": True}]}},
            "selection.methods.0.normalise: unknown key; did you mean normalize?",
        ),
        ({"data": {"filters": [{"filter": "length", "mn": 3}]}}, "data.filters.0.mn: unknown key; did you mean min?"),
        ({"mixture": {"categories": {"by": "clusters", "cont": 3}}}, "did you mean count?"),
        ({"search": {"space": {"lora.rank": {"low": 1, "high": 2, "lg": True}}}}, "did you mean log?"),
        # In another section.
        ({"shard_rows": 3}, "shard_rows: unknown key; did you mean data.shard_rows?"),
        ({"target_modules": []}, "target_modules: unknown key; did you mean lora.target_modules?"),
        (
            {"learning_rate": 1e-4},
            "learning_rate: unknown key; did you mean warmup.learning_rate or finetune.learning_rate?",
        ),
        # Nothing is like it.
        ({"zzz": 3}, "zzz: unknown key; remove it or correct its spelling"),
        ({"lora": {"seed": 3}}, "lora.seed: unknown key; remove it or correct its spelling"),
    ],
)
def test_an_unknown_key_is_told_with_the_one_that_was_meant(parts: dict[str, Any], line: str) -> None:
    (told,) = [each for each in lines(**parts) if "unknown key" in each]
    assert line in told


@pytest.mark.parametrize(
    ("parts", "line"),
    [
        (
            {"selection": {"budget": 0.1, "methods": ["random", "bds"]}},
            "selection.methods.1: the method 'bds' is unknown; did you mean bids? Known are 'bids', 'bm25',",
        ),
        (
            {"selection": {"budget": 0.1, "methods": [{"method": "best"}]}},
            "selection.methods.0: the method 'best' is unknown; known are 'bids', 'bm25',",
        ),
        (
            {"data": {"filters": ["lenght"]}},
            "data.filters.0: the filter 'lenght' is unknown; did you mean length? Known are 'column',",
        ),
        ({"data": {"filters": [{"min": 3}]}}, "data.filters.0: has no key 'filter'; write it (filters of pool rows"),
        ({"mixture": {"categories": {"by": "cluster"}}}, "mixture.categories: the by 'cluster' is unknown; did you"),
    ],
)
def test_an_unknown_name_is_told_with_those_that_are_there(parts: dict[str, Any], line: str) -> None:
    (told,) = lines(**parts)
    assert told.startswith(line)


@pytest.mark.parametrize(
    ("parts", "line"),
    [
        # `column` is the name of the filter, and one of its keys too.
        (
            {"data": {"filters": [{"filter": "column", "column": "x", "min": "much"}]}},
            "data.filters.0.min: should be a valid number or should be a valid integer, not 'much' (smallest number",
        ),
        (
            {"data": {"filters": [{"filter": "column", "column": "x", "values": ["a", [1]]}]}},
            "data.filters.0.values.1: should be a valid string or should be true or false",
        ),
        # Both filters have a key `min`, and each its own meaning.
        (
            {"data": {"filters": [{"filter": "length", "min": "x"}]}},
            "data.filters.0.min: should be a valid integer, not 'x' (shortest length that is kept)",
        ),
        (
            {"data": {"filters": [{"filter": "turns", "min": 0}]}},
            "data.filters.0.min: should be greater than or equal to 1, not 0 (fewest turns that are kept",
        ),
        ({"data": {"filters": "length"}}, "data.filters: should be a valid list, not 'length' (filters of pool rows"),
        (
            {"data": {"filters": ["repetition", {"filter": "length"}]}},
            "data.filters.1: nothing is asked for; give `min` or `max`",
        ),
        (
            {"selection": {"budget": [1, "x"], "methods": ["random"]}},
            "selection.budget.1: should be a valid integer or",
        ),
        (
            {"targets": {"t": {"validation": 3}}},
            "targets.t.validation: should be a valid string, not 3 (file of examples",
        ),
    ],
)
def test_a_wrong_value_is_told_with_its_key_and_its_meaning(parts: dict[str, Any], line: str) -> None:
    (told,) = lines(**parts)
    assert told.startswith(line)


def test_a_misspelt_override_is_told_in_the_same_words(tmp_path: Any) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(str(LEAST))
    for setting, told in (
        ("modl.name=x", "modl: unknown key; did you mean model?"),
        ("finetune.epocs=3", "finetune.epocs: unknown key; did you mean epochs?"),
        ("pool.0.pth=x", "pool.0.pth: unknown key; did you mean path?"),
        ("selection.methods=[bdis]", "selection.methods.0: the method 'bdis' is unknown; did you mean bids?"),
        ("data.filters=[lenght]", "data.filters.0: the filter 'lenght' is unknown; did you mean length?"),
    ):
        with pytest.raises(InputError) as error:
            load_study(path, [setting])
        assert told in str(error.value)


def test_of_filters_that_are_given_all_are_read_in_their_order() -> None:
    filters = ["repetition", {"filter": "length", "max": 5}, {"filter": "length", "min": 2}]
    study = parse_study({**LEAST, "data": {"filters": filters}}, "study.yaml")
    assert [each.name for each in study.data.filters] == ["repetition", "length", "length-2"]
    assert parse_study(study.model_dump(), "config.json") == study
    assert parse_study(study.model_dump(exclude_unset=True), "a trial") == study
    two = [{"filter": "turns", "min": 2, "name": "x"}, {"filter": "length", "min": 2, "name": "x"}]
    (told,) = lines(data={"filters": two})
    assert told.startswith("data.filters: two filters are called 'x'; give one of them another `name`")


def test_a_suggestion_is_made_of_similar_names_alone() -> None:
    assert suggestion("sekect", ["prepare", "select"]) == "; did you mean select?"
    assert suggestion("xyz", ["prepare", "select"]) == ""
