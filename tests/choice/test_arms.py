"""Arms beside the selections, as they are trained on: more rows, rows as long, validation rows, none of the pool."""

from dataclasses import replace

import numpy as np
import pytest
from pydantic import TypeAdapter

from instsel.choice.budget import Budget
from instsel.choice.output import write_rows
from instsel.choice.picks import PickRequest, make_picks
from instsel.config.file import parse_study
from instsel.errors import InputError
from instsel.pipeline.select import Select
from instsel.selection import random
from instsel.selection.registry import AnyMethod
from instsel.study.results import SelectResult
from instsel.study.runs import Run, reference_of, runs_of
from instsel.study.stage import StageKey
from tests.studies import small_manifest

ROWS = [("a", f"prompt number {row}", tokens) for row, tokens in enumerate([9, 7, 5, 6, 3, 4, 8, 2, 6, 5])]
TOKENS = np.array([tokens for _, _, tokens in ROWS])
# Validation rows have two tokens each.
TARGETS = {"cities": ["to Oslo", "to Lima"], "sums": ["figs"]}
INFLUENCE = np.random.default_rng(0).normal(size=(10, 3))


def entry(method, **options):
    return TypeAdapter(AnyMethod).validate_python({"method": method, **options})


def request(method, budget, unit="rows", seed=0, **options):
    return PickRequest(entry(method, **options), seed, Budget(budget, unit), "cosine", 0.1)


def indices(picks):
    return [int(row.removeprefix("row")) for row in picks.table["id"].to_pylist()]


@pytest.fixture
def study(small_pool):
    """A pool of ten rows, a warmup of 30 tokens, and gradients at two checkpoints."""
    reader = small_pool(ROWS, TARGETS, INFLUENCE)
    checkpoint = {"epoch": 1, "step": 1, "loss": 1.0, "learning_rate": 0.1, "tokens": 15, "seconds": 1.0}
    checkpoints = {"epoch-1": checkpoint, "epoch-2": {**checkpoint, "epoch": 2}}
    results = {
        "warmup": {"run": "run", "rows": 3, "checkpoints": checkpoints},
        "features": {"checkpoints": checkpoints, "provenance": {}, "rejected": {}},
    }
    for stage, result in results.items():
        # What the last attempt took is not what the whole stage takes: it is not gone by.
        (reader.study / stage).write_json("manifest.json", small_manifest(stage, result, tokens=1))
    return reader


def write(study, picks, name="arm"):
    """Write a selection as the stage does; its result and the ids of its training set."""
    folder = study.study / "select" / name
    result = write_rows(study.study / "prepare", folder, picks)
    folder.write_json("manifest.json", small_manifest(f"select/{name}", result.to_dict()))
    return result, folder.read_table("training.arrow")["id"].to_pylist()


@pytest.mark.parametrize("budget", [(1, "rows"), (9, "tokens"), (0.2, "rows")])
def test_the_full_pool_is_all_rows_whatever_the_budget(budget, study, say):
    result, lines = write(study, make_picks(request("full_pool", *budget), study, say))
    assert lines == [f"row{row}" for row in range(10)]
    assert (result.rows, result.tokens, result.training) == (10, int(TOKENS.sum()), None)


def test_rows_as_long_as_those_of_another_selection(study, say):
    write(study, make_picks(request("bids", 4), study, say), "bids")
    chosen = (study.study / "select/bids").read_table("selected.parquet")
    reference = Run("bids", entry("bids"), 0, "bids", "bids", 1)
    for seed in range(3):
        asked = replace(request("random", 7, seed=seed, lengths_of="bids"), reference=reference)
        picks = make_picks(asked, study, say)
        rows = [int(row.removeprefix("row")) for row in chosen["id"].to_pylist()]
        assert indices(picks) == random.match_lengths(TOKENS, np.array(rows), seed=seed).indices.tolist()
        assert sorted(TOKENS[indices(picks)]) == sorted(chosen["tokens"].to_pylist())
        assert set(picks.table["reason"].to_pylist()) == {f"uniform draw of the lengths of bids, seed {seed}"}


def test_lengths_of_a_selection_that_is_not_made_yet_are_an_error(study, say):
    asked = replace(request("random", 7, lengths_of="bids"), reference=Run("bids", entry("bids"), 0, "bids", "bids", 1))
    with pytest.raises(InputError, match="no finished stage 'select/bids'"):
        make_picks(asked, study, say)


def extended(budget, unit="rows", epochs=1, method="bids", **options):
    reference = Run("other", entry(method), 0, "other", "other", 1)
    asked = request("random", budget, unit, extra_for="other", **options)
    return replace(asked, reference=reference, epochs=epochs)


# The warmup trained on 30 tokens, and two checkpoints saw 55 tokens of the pool and 6 of the targets.
SPENT = {"warmup": 30, "features": 2 * (55 + 6)}


@pytest.mark.parametrize("epochs", [4, 8, 20])
@pytest.mark.parametrize("budget", [(2, "rows"), (13, "tokens")])
def test_rows_that_the_cost_of_a_selection_would_pay_for(budget, epochs, study, say):
    plain = indices(make_picks(request("random", *budget), study, say))
    picks = make_picks(extended(*budget, epochs=epochs), study, say)
    rows, limit = indices(picks), TOKENS[plain].sum() + sum(SPENT.values()) // epochs
    order = random.select(10, 10, seed=0).indices.tolist()
    assert rows == order[: len(rows)] and rows[: len(plain)] == plain
    assert TOKENS[rows].sum() <= limit < TOKENS[order[: len(rows) + 1]].sum()
    assert picks.details["spent"] == SPENT
    result, lines = write(study, picks)
    assert len(lines) == len(rows) and result.training is None and result.spent == SPENT
    assert picks.table["reason"][0].as_py() == "uniform draw of more rows for the cost of other, seed 0"


def test_where_the_pool_has_no_more_rows_they_come_again(study, say):
    picks = make_picks(extended(2), study, say)
    order = random.select(10, 10, seed=0).indices.tolist()
    limit = int(TOKENS[order[:2]].sum()) + sum(SPENT.values())
    expected, total = [], 0
    while total + TOKENS[order[len(expected) % 10]] <= limit:
        total += TOKENS[order[len(expected) % 10]]
        expected.append(order[len(expected) % 10])
    assert indices(picks) == order and len(expected) > 20
    result, lines = write(study, picks)
    assert lines == [f"row{row}" for row in expected]
    assert (result.rows, result.training.rows, result.training.tokens) == (10, len(expected), total)
    assert result.trained == result.training and result.validation is None


def test_rows_of_named_sources_come_again_where_there_are_no_more(study, say):
    picks = make_picks(extended(2, sources=["a"]), study, say)
    assert picks.lines == make_picks(extended(2), study, say).lines and not say.said


def test_forward_passes_cost_half_a_step(study, say):
    assert make_picks(extended(1, method="rds"), study, say).details["spent"] == {"hidden_states": (55 + 6) / 2}
    # Answers of one token, with the token before each.
    assert make_picks(extended(1, method="ifd"), study, say).details["spent"] == {"likelihood": (55 + 20) / 2}


@pytest.mark.parametrize(("rows", "times"), [(3, [1, 1, 1]), (7, [3, 2, 2]), (2, [1, 1, 0])])
def test_validation_only_trains_as_many_lines_as_a_selection_has(rows, times, study, say):
    picks = make_picks(request("validation_only", rows), study, say)
    result, lines = write(study, picks)
    assert picks.table.num_rows == 0 and (result.rows, result.tokens) == (0, 0)
    assert sorted((lines.count(row) for row in ("cities0", "cities1", "sums0")), reverse=True) == times
    assert (result.training.rows, result.training.tokens) == (rows, 2 * rows) and result.validation == result.training
    few = ["validation_only: the budget has 2 of the 3 validation rows"]
    assert say.said == (few if rows == 2 else [])


def test_seeds_of_training_share_the_validation_rows(study, say):
    lines = {tuple(make_picks(request("validation_only", 2, seed=seed), study, say).validation) for seed in range(5)}
    assert len(lines) == 1


def test_validation_only_within_tokens(study, say):
    result, lines = write(study, make_picks(request("validation_only", 11, "tokens"), study, say))
    assert len(lines) == 5 and result.training.tokens == 10
    with pytest.raises(InputError, match="selection.budget is 1 tokens, and the first validation row has more"):
        make_picks(request("validation_only", 1, "tokens"), study, say)


@pytest.mark.parametrize("method", ["random", "bids", "full_pool"])
def test_validation_rows_are_trained_on_beside_every_selection(method, study, say):
    plain = indices(make_picks(request(method, 4), study, say))
    picks = make_picks(replace(request(method, 4), include_validation=True), study, say)
    result, lines = write(study, picks)
    assert lines == [*(f"row{row}" for row in plain), "cities0", "cities1", "sums0"]
    assert (result.rows, result.validation.rows, result.validation.tokens) == (len(plain), 3, 6)
    assert result.training.rows == len(plain) + 3 and result.training.tokens == result.tokens + 6


def test_validation_only_has_as_many_lines_as_the_arms_that_validation_rows_are_added_to(study, say):
    for budget, lines in [((4, "rows"), 7), ((10, "tokens"), 8)]:
        picks = make_picks(replace(request("validation_only", *budget), include_validation=True), study, say)
        assert len(write(study, picks)[1]) == lines


def test_heldout_rows_are_never_trained_on(study, say):
    """They lie beside the validation rows, which are taken by the name of their file."""
    for target in TARGETS:
        folder = study.study / "prepare/targets" / target
        table = folder.read_table("validation.parquet")
        heldout = table.set_column(0, "id", [[f"heldout-{row}" for row in table["id"].to_pylist()]])
        folder.write_table("heldout.parquet", heldout)
    asked = [replace(request(method, 4), include_validation=True) for method in ("random", "validation_only")]
    for each in asked:
        _, lines = write(study, make_picks(each, study, say))
        assert lines and not [row for row in lines if row.startswith("heldout")]


METHODS = [
    {"method": "random", "name": "more", "extra_for": "bids"},
    {"method": "random", "name": "as-long", "lengths_of": "even", "seeds": [1, 7]},
    {"method": "equal", "name": "even", "seeds": [0, 1]},
    "bids",
    "validation_only",
    "full_pool",
]


def config(methods=METHODS, **selection):
    raw = {
        "name": "study",
        "out": "out",
        "model": {"name": "model"},
        "pool": [{"path": "pool.jsonl"}],
        "targets": {name: {"validation": "v.jsonl"} for name in TARGETS},
        "selection": {"budget": 2, "methods": methods, **selection},
    }
    return parse_study(raw, "study.yaml")


def test_an_arm_is_made_after_the_selection_that_it_refers_to():
    study, stage = config(), Select()
    assert stage.keys(study)[-3:] == ["more", "as-long-1", "as-long-7"]
    assert StageKey("select", "bids") in stage.parents(study, "more")
    # The selection of the same seed where there is one, else the first.
    assert StageKey("select", "even-1") in stage.parents(study, "as-long-1")
    assert StageKey("select", "even-0") in stage.parents(study, "as-long-7")
    assert [len(stage.parents(study, key)) for key in ("bids", "full_pool", "validation_only")] == [1, 1, 1]
    assert stage.settings(study, "more")["epochs"] == study.finetune.epochs
    assert reference_of(study, runs_of(study)["bids"]) is None


def test_of_several_budgets_an_arm_refers_to_the_selection_of_its_own():
    study, stage = config(budget=[3, 2]), Select()
    assert StageKey("select", "bids@2") in stage.parents(study, "more@2")
    assert StageKey("select", "bids@3") in stage.parents(study, "more@3")
    assert stage.settings(study, "more@2")["budget"] == 2
    # The whole pool is the same at every budget.
    assert [key for key in stage.keys(study) if key.startswith("full_pool")] == ["full_pool"]
    assert runs_of(study)["validation_only@2"].budget == 2


def test_what_a_selection_depends_on_is_what_it_was_without_these_arms():
    study = config()
    assert stage_settings(study, "bids") == {
        "budget": 2,
        "influence": "cosine",
        "method": "bids",
        "normalize": True,
        "seed": 0,
        "targets": None,
        "unit": "rows",
        "version": 1,
    }
    with_validation = stage_settings(config(include_validation=True), "bids")
    assert with_validation == {**stage_settings(study, "bids"), "include_validation": True}


def stage_settings(study, key):
    return dict(sorted(Select().settings(study, key).items()))


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ([{"method": "random", "lengths_of": "bids"}, "less"], "'random' refers to 'bids'; it can refer to less"),
        ([{"method": "random", "lengths_of": "random"}], "refers to 'random'; it can refer to no entry here"),
        ([*METHODS, {"method": "random", "lengths_of": "full_pool"}], "which picks all of the pool's rows"),
        ([*METHODS, {"method": "random", "lengths_of": "validation_only"}], "which picks none of the pool's rows"),
        (["longest", {"method": "random", "extra_for": "longest"}], "a selection by index that takes no pass"),
        (["smart", {"method": "random", "extra_for": "smart"}], "a selection by embeddings that takes no pass"),
    ],
)
def test_a_reference_that_cannot_be_is_refused(methods, message):
    with pytest.raises(InputError, match=message):
        config(methods)


def test_levels_of_categories_and_validation_rows_contradict_each_other():
    raw = config([{"method": "random"}]).model_dump(mode="json")
    raw["mixture"] = {"categories": "source"}
    raw["selection"] |= {"include_validation": True, "methods": [{"method": "random", "order": "sorted"}]}
    with pytest.raises(InputError, match="validation rows have none, set selection.include_validation to false"):
        parse_study(raw, "study.yaml")


def test_a_result_without_more_than_its_rows_trains_on_these():
    result = SelectResult(rows=3, tokens=12, sources={}, tasks={})
    assert (result.trained.rows, result.trained.tokens) == (3, 12)
    assert result.to_dict() == {"rows": 3, "tokens": 12, "sources": {}, "tasks": {}}
