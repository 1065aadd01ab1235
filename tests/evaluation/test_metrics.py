"""Scores of answers, by hand and by hypothesis."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instsel.evaluation.metrics import exact_match, f1_results, normalise, rouge_l, token_f1

WORDS = st.lists(st.sampled_from(["a", "b", "c"]), max_size=6).map(" ".join)


def test_case_punctuation_and_spaces_do_not_count():
    assert normalise("  The CAT,\nsat. ") == "the cat sat"
    assert exact_match("the cat sat", ["A dog", "The cat sat!"]) == 1.0
    assert exact_match("the cat", ["The cat sat!"]) == 0.0


def test_f1_by_hand():
    # Two words in common of three and of four: precision 2/3, recall 2/4.
    assert token_f1("red big cat", ["the red cat sat"]) == pytest.approx(2 * 2 / (3 + 4))
    assert token_f1("cat cat", ["cat"]) == pytest.approx(2 / 3)
    assert token_f1("", ["cat"]) == 0.0 and token_f1("", [""]) == 1.0
    assert token_f1("cat", ["dog", "cat"]) == 1.0


def test_a_written_item_has_f1_and_exact_match():
    assert f1_results({"answers": ["nine shirts"]}, ["Nine"]) == {"f1": pytest.approx(2 / 3), "exact_match": 0.0}


def test_rouge_l_is_the_best_over_answers():
    assert rouge_l("the cat sat", ["a dog", "the cat sat"]) == pytest.approx(1)
    assert 0 < rouge_l("the cat sat", ["the cat ran"]) < 1


@given(WORDS, WORDS)
def test_f1_is_symmetric_and_one_for_the_same_words(first: str, second: str):
    assert token_f1(first, [second]) == token_f1(second, [first])
    assert token_f1(first, [first]) == 1.0
    assert 0 <= token_f1(first, [second]) <= 1
