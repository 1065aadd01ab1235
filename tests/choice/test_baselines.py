"""Baselines on the files that stage *prepare* leaves: which rows, and what they are said to be chosen by."""

import numpy as np
import pytest
from pydantic import TypeAdapter

from instsel.choice.budget import Budget
from instsel.choice.picks import MethodChooser, PickRequest, make_picks
from instsel.config.file import parse_study
from instsel.errors import InputError
from instsel.pipeline.select import Select
from instsel.selection import bm25, random
from instsel.selection.registry import AnyMethod

ROWS = [
    ("trains", "When does the train to Lima leave?", 9),
    ("fruit", "How many apples are in the basket?", 7),
    ("trains", "Which train goes to Oslo?", 5),
    ("fruit", "Are there figs in the basket?", 6),
    ("letters", "Which letter follows b?", 3),
    ("fruit", "Name two kinds of apples.", 4),
    ("trains", "Is Oslo far from Lima by train?", 8),
    ("letters", "Spell train.", 2),
    ("fruit", "What do figs cost?", 6),
]
TARGETS = {"cities": ["the train to Oslo", "a train to Lima"], "sums": ["figs and apples in a basket"]}


#                      cities          sums
INFLUENCE = np.array([[0.9, 0.1, 0.2], [0.1, 0.2, 0.9], [0.8, 0.7, 0.8], [0.0, 0.1, 0.7], [0.2, 0.3, 0.0],
                      [0.1, 0.0, 0.6], [0.5, 0.9, 0.1], [0.3, 0.2, 0.0], [0.0, 0.0, 0.5]])  # fmt: skip


def entry(method, **options):
    return TypeAdapter(AnyMethod).validate_python({"method": method, **options})


def request(method, budget, unit="rows", seed=0, **options):
    method = entry(method, **options)
    quotas = method.quota_shares(None, TARGETS)
    return PickRequest(method, seed, Budget(budget, unit), "cosine", 0.1, quotas=quotas)


def indices(picks):
    return [int(row.removeprefix("row")) for row in picks.table["id"].to_pylist()]


def test_bm25_reads_the_prompts_of_pool_and_targets(small_pool, say):
    reader = small_pool(ROWS, TARGETS)
    picks = make_picks(request("bm25", 4), reader, say)
    validation, labels = [*TARGETS["cities"], *TARGETS["sums"]], ["cities", "cities", "sums"]
    expected = bm25.select([prompt for _, prompt, _ in ROWS], 4, validation=validation, targets=labels)
    assert indices(picks) == expected.indices.tolist()
    assert picks.table["score"].to_pylist() == expected.scores.tolist()
    reasons = ["cities:cities0", "sums:sums0", "cities:cities1", "sums:sums0"]
    assert picks.table["reason"].to_pylist() == [f"validation example {reason}" for reason in reasons]


def test_bm25_chooses_for_some_targets_and_within_tokens(small_pool, say):
    reader = small_pool(ROWS, TARGETS)
    picks = make_picks(request("bm25", 20, "tokens", targets=["sums"]), reader, say)
    assert sum(ROWS[row][2] for row in indices(picks)) <= 20
    assert set(picks.table["reason"].to_pylist()) == {"validation example sums:sums0"}


def test_bm25_of_a_part_of_the_pool_reads_that_part(small_pool):
    whole = MethodChooser.of(request("bm25", 3), small_pool(ROWS, TARGETS))
    members = [np.array(rows) for rows in ([1, 6, 8], [0, 2, 3, 4, 5, 7])]
    for chooser, rows in zip(whole.divided(members), members, strict=True):
        assert list(chooser.ids) == [f"row{row}" for row in rows]
        # They are read by every loop over them.
        assert list(chooser.data.prompts) == list(chooser.data.prompts) == [ROWS[row][1] for row in rows]
    alone = bm25.select([ROWS[row][1] for row in members[0]], 3, validation=TARGETS["sums"], targets=["sums"])
    part = MethodChooser.of(request("bm25", 3, targets=["sums"]), small_pool(ROWS, TARGETS)).divided(members)[0]
    assert part.pick(3).indices.tolist() == alone.indices.tolist()


@pytest.mark.parametrize("method", ["bids", "less", "round_robin", "instance_max", "task_max", "sum", "bm25"])
def test_each_target_chooses_its_share_and_every_reason_says_whose_it_is(method, small_pool, say):
    reader = small_pool(ROWS, TARGETS, INFLUENCE)
    picks = make_picks(request(method, 4, quotas={"cities": 0.25, "sums": 0.75}), reader, say)
    chosen_by = [reason.split(": ")[0] for reason in picks.table["reason"].to_pylist()]
    assert chosen_by == ["quota of cities", "quota of sums", "quota of sums", "quota of sums"]
    assert picks.details["quotas"] == {"cities": 1, "sums": 3}
    assert len(set(indices(picks))) == 4


def test_reasons_with_quotas_name_the_validation_example_too(small_pool, say):
    reader = small_pool(ROWS, TARGETS, INFLUENCE)
    picks = make_picks(request("round_robin", 4, quotas="equal"), reader, say)
    assert indices(picks) == [0, 1, 6, 2]
    examples = ["cities:cities0", "sums:sums0", "cities:cities1", "sums:sums0"]
    expected = [f"quota of {name.split(':')[0]}: validation example {name}" for name in examples]
    assert picks.table["reason"].to_pylist() == expected


@pytest.mark.parametrize("quotas", ["equal", {"cities": 0.3, "sums": 0.7}])
@pytest.mark.parametrize("tokens", [12, 20, 31, 45])
def test_quotas_within_tokens_are_those_of_as_many_rows(quotas, tokens, small_pool, say):
    reader = small_pool(ROWS, TARGETS, INFLUENCE)
    picks = make_picks(request("bids", tokens, "tokens", quotas=quotas), reader, say)
    rows = indices(picks)
    assert sum(ROWS[row][2] for row in rows) <= tokens
    assert sum(picks.details["quotas"].values()) == len(rows)
    assert indices(make_picks(request("bids", len(rows), quotas=quotas), reader, say)) == rows


def test_only_equal_quotas_have_the_choice_of_fewer_rows_at_their_beginning():
    assert request("bids", 2, quotas="equal").is_prefix_stable and request("bids", 2).is_prefix_stable
    assert not request("bids", 2, quotas={"cities": 0.3, "sums": 0.7}).is_prefix_stable


def test_the_selection_of_a_study_depends_on_its_quotas():
    methods = ["less", "random", {"method": "bids", "quotas": "none"}]
    raw = {
        "name": "study",
        "out": "out",
        "model": {"name": "model"},
        "pool": [{"path": "pool.jsonl"}],
        "targets": {name: {"validation": "v.jsonl"} for name in TARGETS},
        "selection": {"budget": 2, "quotas": "equal", "methods": methods},
    }
    study = parse_study(raw, "study.yaml")
    assert Select().settings(study, "less")["quotas"] == {"cities": 0.5, "sums": 0.5}
    assert "quotas" not in Select().settings(study, "random") and "quotas" not in Select().settings(study, "bids")


def test_a_draw_from_named_sources_has_the_order_of_the_plain_draw(small_pool, say):
    reader = small_pool(ROWS)
    picks = make_picks(request("random", 4, seed=3, sources=["fruit", "letters"]), reader, say)
    order = random.select(9, 9, seed=3).indices.tolist()
    assert indices(picks) == [row for row in order if ROWS[row][0] != "trains"][:4]
    assert picks.table["reason"].to_pylist() == ["uniform draw from fruit, letters, seed 3"] * 4
    assert not say.said


def test_named_sources_with_fewer_rows_than_the_budget_give_all_they_have(small_pool, say):
    picks = make_picks(request("random", 5, sources=["letters"]), small_pool(ROWS), say)
    assert sorted(indices(picks)) == [4, 7]
    assert say.said == ["random: letters have 2 rows, and no more are chosen"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("fruits", "'here' draws from the source 'fruits', which the pool does not have; did you mean fruit?"),
        ("zebra", "'zebra', which the pool does not have; it has fruit, letters, trains"),
    ],
)
def test_a_source_that_the_pool_does_not_have_is_named_with_those_near(source, message, small_pool, say):
    with pytest.raises(InputError, match=f"selection.methods: .*{message}"):
        make_picks(request("random", 2, name="here", sources=["trains", source]), small_pool(ROWS), say)
