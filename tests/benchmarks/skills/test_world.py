"""What a world says of its rows holds: answers, kinds, helpful rows, and no test row that a selector could see."""

import pytest

from benchmarks.skills.frozen import FROZEN
from benchmarks.skills.model import build_tokenizer, encode
from benchmarks.skills.world import DISTANCES, KINDS, SKILLS, make_world
from instsel.data.chat import encode as encode_chat

SETTINGS = FROZEN.world


@pytest.fixture(scope="module", params=DISTANCES)
def world(request):
    return request.param, make_world(SETTINGS, request.param, 3)


@pytest.mark.parametrize(
    ("skill", "text", "answer"),
    [
        ("copy", "acb", "acb"),
        ("turn", "acb", "bca"),
        ("sort", "cab", "abc"),
        ("fall", "cab", "cba"),
        ("shift", "amz", "bna"),
        ("shiftup", "amz", "BNA"),
        ("vowels", "orange", "oae"),
        ("vowels", "xyz", "."),
        ("drop", "orange", "rng"),
        ("dropup", "orange", "RNG"),
        ("swap", "abcde", "deabc"),
        ("swapup", "abcd", "CDAB"),
        ("roll", "abc", "bca"),
        ("odd", "abcde", "ace"),
        ("even", "abcde", "bd"),
        ("upper", "abc", "ABC"),
        ("plus", "17+25", "42"),
    ],
)
def test_skills_give_the_answers_worked_out_by_hand(skill, text, answer):
    assert SKILLS[skill].answer(text) == answer


def test_only_wrong_rows_have_answers_that_are_not_the_skills(world):
    _, rows = world
    for row in [*rows.pool, *rows.validation, *rows.test]:
        assert (row.answer == SKILLS[row.skill].answer(row.text)) == (row.kind != "wrong"), row


def test_kinds_have_the_shares_of_the_settings(world):
    _, rows = world
    assert len(rows.pool) == SETTINGS.pool_rows
    for kind in KINDS:
        assert rows.of_kind(kind).mean() == pytest.approx(SETTINGS.shares[kind])


def test_the_far_pool_lacks_the_targets_and_helpful_rows_fill_the_budget(world):
    distance, rows = world
    skills = {row.skill for row in rows.pool}
    related = {name for names in SETTINGS.related.values() for name in names}
    assert skills == set(SETTINGS.skills) - (set(SETTINGS.targets) if distance == "far" else set())
    helped = {row.skill for row, is_helpful in zip(rows.pool, rows.helpful, strict=True) if is_helpful}
    assert helped == (set(SETTINGS.targets) if distance == "near" else related)
    assert not (rows.helpful & ~rows.of_kind("right")).any()
    assert rows.helpful.sum() >= FROZEN.rows


def test_no_input_of_the_test_is_in_the_pool_or_in_validation(world):
    _, rows = world
    seen = {(row.skill, row.text) for row in [*rows.pool, *rows.validation]}
    tested = [(row.skill, row.text) for row in rows.test]
    assert not seen & set(tested)
    assert len(set(tested)) == len(tested)
    assert len({row.id for row in rows.pool}) == len(rows.pool)


def test_near_copies_differ_from_a_right_row_in_one_symbol(world):
    _, rows = world
    right = {(row.skill, row.text) for row in rows.pool if row.kind == "right"}
    by_skill = {skill: [text for name, text in right if name == skill] for skill in SKILLS}
    for copy in [row for row in rows.pool if row.kind == "near_copy"][:50]:
        distances = [
            sum(a != b for a, b in zip(text, copy.text, strict=True))
            for text in by_skill[copy.skill]
            if len(text) == len(copy.text)
        ]
        assert min(distances) == 1


def test_a_seed_gives_the_same_rows_and_another_seed_others():
    assert make_world(SETTINGS, "near", 5).pool == make_world(SETTINGS, "near", 5).pool
    assert make_world(SETTINGS, "near", 5).pool != make_world(SETTINGS, "near", 6).pool


def test_rows_are_encoded_as_the_product_encodes_conversations(world):
    _, rows = world
    tokenizer = build_tokenizer()
    for row in rows.pool[:40]:
        expected = encode_chat(tokenizer, row.messages, 64)
        assert encode(row) == {"input_ids": expected.input_ids, "labels": expected.labels}
