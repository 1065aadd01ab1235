"""What a study file may hold: each wrong value is refused with its key and the key's meaning."""

from typing import Any

import pytest
from pydantic import BaseModel

from instsel.config.file import parse_study
from instsel.config.study import StudyConfig
from instsel.errors import InputError
from instsel.selection.bids import Bids
from instsel.selection.less import Less
from instsel.selection.random import Random

LEAST = {
    "name": "s",
    "out": "runs/s",
    "model": {"name": "m"},
    "pool": [{"path": "pool.jsonl"}],
    "targets": {"t": {"validation": "v.jsonl"}},
    "selection": {"budget": 0.1, "methods": ["random"]},
}


def study(**parts: Any) -> StudyConfig:
    return parse_study({**LEAST, **parts}, "study.yaml")


def refusal(**parts: Any) -> str:
    with pytest.raises(InputError) as error:
        study(**parts)
    return str(error.value)


def selection(budget: Any = 0.1, methods: Any = ("random",)) -> dict[str, Any]:
    return {"budget": budget, "methods": list(methods) if isinstance(methods, tuple) else methods}


def test_the_least_study_file_has_defaults_for_all_else() -> None:
    config = study()
    assert config.selection.methods == [Random(method="random")]
    assert (config.warmup.epochs, config.finetune.epochs) == (4, 2)
    assert config.resources.actors is None


def test_every_key_says_what_it_means() -> None:
    def models(model: type[BaseModel]) -> list[type[BaseModel]]:
        inner = [m for field in model.model_fields.values() for m in found(field.annotation)]
        return [model, *(other for m in inner for other in models(m))]

    def found(annotation: Any) -> list[type[BaseModel]]:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return [annotation]
        return [m for inner in getattr(annotation, "__args__", ()) for m in found(inner)]

    reached = models(StudyConfig)
    assert {Random, Less, Bids} <= set(reached)
    missing = [f"{m.__name__}.{name}" for m in reached for name, f in m.model_fields.items() if not f.description]
    assert missing == []


def test_values_do_not_change_after_loading() -> None:
    with pytest.raises(ValueError, match="frozen"):
        study().selection.budget = 3


@pytest.mark.parametrize("budget", [1, 5, 0.25, 1.0])
def test_a_budget_stays_a_count_or_a_share(budget: int | float) -> None:
    chosen = study(selection=selection(budget)).selection.budget
    assert (chosen, type(chosen)) == (budget, type(budget))


def test_the_budget_of_a_list_that_is_none_is_named() -> None:
    text = refusal(selection=selection([5, "many"]))
    assert text.startswith("study.yaml has a wrong key:\n  selection.budget.1: ") and "not 'many'" in text


def test_budgets_are_ordered() -> None:
    part = study(selection=selection([0.1, 0.01, 0.05])).selection
    assert (part.budgets, part.largest_budget) == ([0.01, 0.05, 0.1], 0.1)


@pytest.mark.parametrize(
    ("budget", "what"),
    [
        (0, "budget is 0; write a share above 0 (0.1) or a count of at least 1 (500)"),
        (0.0, "budget is 0.0; write"),
        (-5, "budget is -5; write"),
        (-0.1, "budget is -0.1; write"),
        (1.5, "share 1.5, above 1; write a whole number"),
        (float("inf"), "not inf"),
        (float("nan"), "not nan"),
        (True, "not True"),
        ("many", "not 'many'"),
        (None, "not None"),
        ([], "budget is an empty list; write one budget or more"),
        ([0.1, 1.5], "share 1.5, above 1; write a whole number"),
        ([0.1, 500], "budget has shares and counts, [0.1, 500]; write all as shares or all as counts"),
        ([5, 5], "budget has an amount twice, [5, 5]; keep one of them"),
    ],
)
def test_a_budget_that_means_nothing_is_refused(budget: Any, what: str) -> None:
    text = refusal(selection=selection(budget))
    assert text.startswith("study.yaml has a wrong key:\n  selection.budget: ")
    assert what in text
    assert "a whole number is a count, a number with a point a share" in text


@pytest.mark.parametrize(
    "methods",
    [
        ("random", "random"),
        ("less", {"method": "bids", "name": "less"}),
        ({"method": "bids", "normalize": False}, "bids"),
    ],
)
def test_two_methods_of_one_name_are_refused(methods: tuple[Any, ...]) -> None:
    text = refusal(selection=selection(methods=methods))
    assert "selection.methods: two methods are called" in text
    assert "give one of them another `name`" in text


def test_a_target_cannot_have_the_name_of_a_column_of_gains() -> None:
    targets = {"form": {"validation": "v.jsonl"}}
    text = refusal(targets=targets, evaluation={"form_and_content": True})
    assert "'form' is a column of the losses with evaluation.form_and_content; rename it" in text
    assert list(study(targets=targets).targets) == ["form"]


def test_one_method_twice_under_two_names_is_fine() -> None:
    raw = {"method": "bids", "name": "bids-raw", "normalize": False}
    assert [m.name for m in study(selection=selection(methods=("bids", raw))).selection.methods] == ["bids", "bids-raw"]


@pytest.mark.parametrize(
    ("methods", "key", "what"),
    [
        (("g2s",), "selection.methods.0", "'bids', 'bm25', 'equal', 'facility_location'"),
        (("random", {"name": "x"}), "selection.methods.1", "'method'"),
        ((3,), "selection.methods.0", "not 3"),
        ((), "selection.methods", "at least 1 item"),
        ("random", "selection.methods", "not 'random'"),
        (({"method": "less", "lam": 0.4},), "selection.methods.0.lam", "unknown key"),
        (({"method": "longest", "attribution": "fisher"},), "selection.methods.0.attribution", "unknown key"),
        (
            ({"method": "bids", "attribution": "contrast", "damping": 1.0},),
            "selection.methods",
            "which only `attribution: fisher`",
        ),
        (({"method": "g2is", "delta": 1.5},), "selection.methods.0.delta", "less than or equal to 1, not 1.5"),
        (({"method": "random", "seeds": []},), "selection.methods.0.seeds", "at least 1 item"),
        (({"method": "random", "sources": []},), "selection.methods.0.sources", "at least 1 item"),
        (({"method": "less", "name": "base"},), "selection.methods", "cannot be called 'base'"),
        (({"method": "less", "name": "a/b"},), "selection.methods", "'a/b' is not usable"),
    ],
)
def test_a_wrong_method_is_named_by_its_place(methods: Any, key: str, what: str) -> None:
    text = refusal(selection=selection(methods=methods))
    assert f"\n  {key}: " in text
    assert what in text


@pytest.mark.parametrize(
    ("parts", "key", "what", "meaning"),
    [
        ({"data": {"max_length": "long"}}, "data.max_length", "not 'long'", "longest example in tokens"),
        ({"data": {"max_length": 10.5}}, "data.max_length", "not 10.5", "longest example in tokens"),
        ({"data": {"max_length": True}}, "data.max_length", "not True", "longest example in tokens"),
        (
            {"data": {"leak_words": 2}},
            "data.leak_words",
            "greater than or equal to 3, not 2",
            "share this many consecutive words",
        ),
        *(
            (
                {"data": {"near_duplicate_threshold": threshold}},
                "data.near_duplicate_threshold",
                f"near_duplicate_threshold is {threshold}; write a similarity from 0.5, half of the text the same, to",
                "least Jaccard similarity",
            )
            for threshold in (0.0, 0.49, 1.01)
        ),
        (
            {"data": {"near_duplicates": "remove"}},
            "data.near_duplicates",
            "'report', 'drop' or 'off', not 'remove'",
            "nearly the same as an earlier one",
        ),
        ({"data": None}, "data", "not None", "conversion of rows to examples"),
        ({"name": 2024}, "name", "not 2024", "name of the study"),
        ({"name": "a b"}, "name", "'a b' is not usable", "name of the study"),
        ({"pool": []}, "pool", "at least 1 item", "files of the pool"),
        ({"pool": [{}]}, "pool.0.path", "is missing; write it", "file, glob or URI"),
        ({"pool": [{"path": "a", "format": "csv"}]}, "pool.0.format", "not 'csv'", "format of the rows"),
        ({"targets": {"mean": {"validation": "v"}}}, "targets", "cannot be called 'mean'", "abilities"),
        ({"targets": {"a/b": {"validation": "v"}}}, "targets", "'a/b' is not usable", "abilities"),
        ({"targets": {"t": {}}}, "targets.t.validation", "is missing", "examples of the ability"),
        ({"targets": {"less": {}}}, "targets.less.validation", "is missing", "examples of the ability"),
        ({"targets": {"t": {"validation": "v", "max_heldout": 0}}}, "targets.t.max_heldout", "not 0", "held-out rows"),
        ({"lora": {"target_modules": "q"}}, "lora.target_modules", "not 'q'", "modules that get LoRA matrices"),
        ({"lora": {"dropout": 1}}, "lora.dropout", "less than 1, not 1", "LoRA dropout"),
        ({"warmup": {"share": 0}}, "warmup.share", "greater than 0, not 0", "fraction of the pool"),
        ({"finetune": {"share": 0.1}}, "finetune.share", "unknown key", "training on each selection"),
        ({"finetune": {"learning_rate": float("inf")}}, "finetune.learning_rate", "finite", "peak learning rate"),
        ({"finetune": {"schedule": "step"}}, "finetune.schedule", "'linear', 'cosine' or 'constant'", "decays"),
        ({"deepspeed": {"stage": 4}}, "deepspeed.stage", "not 4", "ZeRO stage"),
        ({"resources": {"actors": 0}}, "resources.actors", "not 0", "model actors"),
        ({"evaluation": {"confidence": 95}}, "evaluation.confidence", "less than 1, not 95", "coverage"),
    ],
)
def test_a_wrong_value_is_refused_with_key_value_and_meaning(
    parts: dict[str, Any], key: str, what: str, meaning: str
) -> None:
    text = refusal(**parts)
    assert text.startswith(f"study.yaml has a wrong key:\n  {key}: ")
    assert what in text
    assert meaning in text


@pytest.mark.parametrize(
    ("parts", "key", "meaning"),
    [
        ({"modle": {}}, "modle", ""),
        ({"data": {"max_len": 1}}, "data.max_len", "conversion of rows to examples"),
        ({"pool": [{"path": "a", "pth": "b"}]}, "pool.0.pth", "files of the pool"),
        ({"targets": {"t": {"validation": "v", "part": "x"}}}, "targets.t.part", "abilities the selection is for"),
        ({1: 2}, "1", ""),
    ],
)
def test_an_unknown_key_is_refused(parts: dict[Any, Any], key: str, meaning: str) -> None:
    with pytest.raises(InputError) as error:
        parse_study({**LEAST, **parts}, "study.yaml")
    assert f"\n  {key}: " in str(error.value)
    assert meaning in str(error.value)


def test_a_method_chooses_for_targets_of_the_study_only() -> None:
    method = {"method": "bids", "targets": ["t", "u"]}
    text = refusal(targets={"t": {"validation": "v"}}, selection=selection(methods=(method,)))
    assert "selection.methods: 'bids' chooses for 'u'; targets are t" in text


@pytest.mark.parametrize(
    ("quotas", "method", "what"),
    [
        ({"t": 0.5}, "less", "'less': quotas must be at least 0 and sum to 1, got {'t': 0.5}, in all 0.5"),
        ({"t": 0.5, "u": 0.5}, "less", "'less': quotas have a share for 'u', which is no target; they are t"),
        ("fair", "less", "selection.quotas"),
        (None, {"method": "less", "quotas": {"t": -1}}, "selection.methods.0"),
        ("equal", {"method": "less", "mixture": "pool"}, "has quotas and a mixture"),
    ],
)
def test_quotas_that_mean_nothing_are_refused(quotas: Any, method: Any, what: str) -> None:
    part = {**selection(methods=(method,)), "quotas": quotas}
    assert what in refusal(targets={"t": {"validation": "v"}}, selection=part)


def test_every_wrong_key_is_told_at_once() -> None:
    text = refusal(data={"max_length": "x", "shard_rows": 0}, modle=1)
    assert text.startswith("study.yaml has 3 wrong keys:")
    assert [line.split(":")[0].strip() for line in text.splitlines()[1:]] == [
        "data.max_length",
        "data.shard_rows",
        "modle",
    ]


@pytest.mark.parametrize("gpus", [0.25, 0.5, 1.0, 2.0, 4.0])
def test_an_actor_holds_a_part_of_a_gpu_or_whole_ones(gpus: float) -> None:
    assert study(resources={"gpus_per_actor": gpus}).resources.gpus_per_actor == gpus


def test_one_and_a_half_gpus_an_actor_are_refused() -> None:
    assert "resources.gpus_per_actor: gpus_per_actor is 1.5; above 1 it has to be a whole number" in refusal(
        resources={"gpus_per_actor": 1.5}
    )


def test_an_actor_without_a_gpu_is_refused_where_it_is_asked_for() -> None:
    assert "resources.gpus_per_actor" in refusal(resources={"gpus_per_actor": 0.0})


@pytest.mark.parametrize(
    "parts",
    [
        {"out": "s3://KEY:hunter2@bucket/runs"},
        {"root": "s3://KEY:hunter2@bucket"},
        {"pool": [{"path": "https://user:hunter2@host/rows.jsonl"}]},
        {"targets": {"t": {"validation": "s3://KEY:hunter2@bucket/v.jsonl"}}},
        {"targets": {"t": {"validation": "v.jsonl", "heldout": "s3://KEY:hunter2@bucket/h.jsonl"}}},
    ],
)
def test_a_password_in_a_place_is_refused_and_not_repeated(parts: dict[str, Any]) -> None:
    said = refusal(**parts)
    assert "URI with a key or password, which would be written into manifests and logs" in said
    assert "hunter2" not in said


@pytest.mark.parametrize("out", ["gs://anonymous@bucket/x", "s3://bucket/a:b@c", "runs/a:b@c"])
def test_other_places_with_an_at_are_taken(out: str) -> None:
    assert study(out=out).out == out


@pytest.mark.parametrize("name", ["s\n", "../s", "a/b", "", ".hidden", "a\x1b"])
def test_a_name_cannot_lead_elsewhere(name: str) -> None:
    assert "is not usable" in refusal(name=name)


@pytest.mark.parametrize(
    ("parts", "what"),
    [
        ({"selection": selection(methods=("random", "bids"))}, "'bids'"),
        ({"selection": selection(methods=("rds",))}, "'rds'"),
        ({"selection": selection(methods=("validation_only",))}, "'validation_only'"),
        ({"evaluation": {"headroom": True}}, "'evaluation.headroom'"),
        ({"search": {"space": {"finetune.epochs": [1, 2]}}}, "'search'"),
        ({"mixture": {"importance": "targets"}}, "'mixture.importance'"),
        ({"evaluation": {"form_and_content": True}}, "'evaluation.form_and_content'"),
        ({"selection": {**selection(methods=("random",)), "quotas": "equal"}}, "'selection.quotas'"),
    ],
)
def test_what_needs_a_target_is_named_where_there_is_none(parts: dict[str, Any], what: str) -> None:
    assert study(targets={}).targets == {}
    assert f"targets: {what} needs a target, and there is none" in refusal(targets={}, **parts)


def test_a_mixture_by_hand_needs_no_target() -> None:
    mixture = {"importance": {"code": 0.5, "chat": 0.5}, "max_shift": 0.2}
    by_mixture = {"budget": 0.1, "methods": [{"method": "random", "mixture": "pool"}]}
    assert study(targets={}, mixture=mixture, selection=by_mixture).mixture is not None


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({"prompt": "ask"}, "`prompt` and `answer` belong together"),
        ({"messages": "chat", "prompt": "a", "answer": "b"}, "give `messages`, or `prompt` and `answer`"),
        ({"prompt": ["a", "b"], "answer": "c"}, "`prompt` is one column"),
        ({"promt": "ask"}, "promt"),
        (
            {"messages": "a", "history": "b"},
            "`history` belongs to a prompt and its answer, not to `messages`; remove it",
        ),
    ],
)
def test_columns_that_contradict_each_other_are_refused(columns: dict[str, Any], why: str) -> None:
    assert why in refusal(pool=[{"path": "a", "columns": columns}])


def test_a_value_in_place_of_keys_is_told_in_words_of_the_file() -> None:
    assert "model: should hold keys with values, not 'tiny'" in refusal(model="tiny")
    assert "targets.m: should hold keys with values, not 'x.jsonl'" in refusal(targets={"m": "x.jsonl"})
