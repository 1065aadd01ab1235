"""Prompts that share rare words with a validation prompt are taken in turns."""

import math
import re
import warnings
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import instsel
from instsel.selection import bm25, round_robin
from instsel.selection.method_data import PromptData


def naive(prompts, validation, k1=1.5, b=0.75):
    """The formula as it is written, word by word, in Python's floats."""
    documents = [re.findall(r"\b\w\w+\b", text.lower()) for text in prompts]
    mean = sum(map(len, documents)) / max(1, len(documents))
    scores = np.zeros((len(documents), len(validation)))
    for column, text in enumerate(validation):
        for word in re.findall(r"\b\w\w+\b", text.lower()):
            having = sum(word in document for document in documents)
            idf = math.log(1 + (len(documents) - having + 0.5) / (having + 0.5))
            for row, document in enumerate(documents):
                tf = Counter(document)[word]
                if tf:
                    scores[row, column] += idf * tf / (tf + k1 * (1 - b + b * len(document) / mean))
    return scores


POOL = [
    "How many apples are in the basket?",
    "When does the train to Lima leave?",
    "Name the train that leaves for Oslo, and when the train leaves.",
    "Apples, apples, apples!",
    "",
    "Was kostet das?",
]


def test_a_case_by_hand():
    # Three documents of 1, 2 and 3 words, 2 on average; `fig` is in two of them.
    scores = bm25.score(["fig", "fig oslo", "rome bern cairo"], ["Fig", "OSLO fig fig"])
    fig, oslo = math.log(1 + 1.5 / 2.5), math.log(1 + 2.5 / 1.5)
    short, middle = 1 / (1 + 1.5 * (0.25 + 0.75 / 2)), 1 / (1 + 1.5)
    expected = [[fig * short, 2 * fig * short], [fig * middle, oslo * middle + 2 * fig * middle], [0, 0]]
    np.testing.assert_allclose(scores, expected, rtol=1e-6)
    assert scores.dtype == np.float32 and not scores.flags.writeable


def test_words_of_one_letter_do_not_count_and_frequent_ones_are_not_left_out():
    scores = bm25.score(["x the y", "z a b"], ["the", "x y z a b"])
    assert scores[0, 0] > 0 and not scores[1, 0] and not scores[:, 1].any()


def test_equal_prompts_have_equal_scores_whatever_the_order_of_their_words():
    scores = bm25.score(["lima oslo rome", "rome lima oslo", "cairo"], ["rome oslo lima cairo", "lima lima"])
    assert scores[0].tolist() == scores[1].tolist()


WORDS = st.sampled_from(["Oslo", "lima", "rome", "CAIRO", "fig", "figs", "7", "42", "été", "-"])
TEXTS = st.lists(WORDS, max_size=8).map(" ".join)


@settings(max_examples=80, deadline=None)
@given(
    prompts=st.lists(TEXTS, max_size=8),
    validation=st.lists(TEXTS, min_size=1, max_size=4),
    k1=st.sampled_from([0.0, 1.2, 1.5]),
    b=st.sampled_from([0.0, 0.75, 1.0]),
)
def test_scores_are_those_of_the_formula_and_picks_those_of_round_robin(prompts, validation, k1, b):
    scores = bm25.score(iter(prompts), validation, k1=k1, b=b)
    assert scores.shape == (len(prompts), len(validation))
    np.testing.assert_allclose(scores, naive(prompts, validation, k1, b), rtol=1e-5)
    usable = np.flatnonzero(scores.any(axis=0))
    if not usable.size:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        selection = bm25.select(prompts, 5, validation=validation, k1=k1, b=b)
    expected = round_robin.select(scores[:, usable], 5)
    assert selection.indices.tolist() == expected.indices.tolist()
    assert selection.scores.tolist() == expected.scores.tolist()
    assert selection.driven_by.tolist() == usable[expected.driven_by].tolist()


def test_targets_take_turns():
    validation = ["apples in a basket", "train to Oslo", "train to Lima"]
    selection = instsel.select("bm25", POOL, 4, validation=validation, targets=["sums", "trains", "trains"])
    assert selection.driven_by.tolist() == [0, 1, 0, 2]
    expected = round_robin.select(bm25.score(POOL, validation), 4, targets=["sums", "trains", "trains"])
    assert selection.indices.tolist() == expected.indices.tolist()
    assert instsel.select("bm25", POOL, 4, validation=validation).driven_by.tolist() == [0, 1, 2, 0]


def test_validation_prompts_that_share_no_word_have_no_turn_and_are_named():
    validation = ["zebra", "train", "", "apples"]
    with pytest.warns(UserWarning, match=r"share no word with the pool: \[0, 2\]"):
        selection = bm25.select(POOL, 4, validation=validation, targets=["a", "b", "b", "b"])
    assert selection.driven_by.tolist() == [1, 3, 1, 3]
    with pytest.raises(ValueError, match="none of the 1 validation prompts shares a word with the pool"):
        bm25.select(POOL, 4, validation=["zebra"])


def test_texts_are_read_in_blocks(monkeypatch):
    whole = bm25.score(POOL, ["train to Lima", "apples"])
    monkeypatch.setattr(bm25, "_TEXTS", 2)
    assert bm25.score(iter(POOL), ["train to Lima", "apples"]).tolist() == whole.tolist()


def test_scores_may_be_memory_mapped(monkeypatch):
    whole = bm25.score(POOL, ["train to Lima", "apples"])
    monkeypatch.setattr("instsel.io.matrix.MAPPED_BYTES", 8)
    mapped = bm25.score(POOL, ["train to Lima", "apples"])
    assert isinstance(mapped.base, np.memmap) or isinstance(mapped, np.memmap)
    assert mapped.tolist() == whole.tolist()


def test_nothing_to_choose():
    assert len(bm25.select([], 3, validation=["oslo"])) == 0
    assert len(bm25.select(POOL, 0, validation=["oslo"])) == 0
    assert bm25.score(["", "!"], ["oslo"]).tolist() == [[0], [0]]


@pytest.mark.parametrize(
    ("prompts", "budget", "options", "message"),
    [
        ("oslo", 1, {"validation": ["oslo"]}, "prompts must be a sequence of texts, got the text 'oslo'"),
        (["oslo", 3], 1, {"validation": ["oslo"]}, "prompts must be texts, got 3 at row 1"),
        (["oslo"], 1, {"validation": [None]}, "validation must be texts, got None at row 0"),
        (["oslo"], 1, {"validation": []}, "validation must have at least one prompt"),
        (["oslo"], 1, {"validation": ["oslo"], "k1": -1.0}, "k1 must be at least 0 and b from 0 to 1, got k1=-1.0"),
        (["oslo"], 1, {"validation": ["oslo"], "b": float("nan")}, "b from 0 to 1, .*b=nan"),
        (["oslo"], -1, {"validation": ["oslo"]}, "budget must be at least 0, got -1"),
        (["oslo"], 1, {"validation": ["oslo"], "targets": ["a", "b"]}, "one label for each of 1 columns, got 2"),
        (["oslo"], 1, {}, "bm25 needs validation="),
        (3, 1, {"validation": ["oslo"]}, "bm25: data or an option has a wrong type"),
    ],
)
def test_what_does_not_fit_is_rejected(prompts, budget, options, message):
    with pytest.raises(ValueError, match=message):
        instsel.select("bm25", prompts, budget, **options)


def test_scores_of_a_study_are_computed_once():
    read = []

    class Prompts:
        def __iter__(self):
            read.append(1)
            return iter(POOL)

    method = bm25.Bm25(method="bm25")
    columns = pa.table({"id": ["v"], "target": ["t"], "subtask": ["t"]})
    data = PromptData([str(row) for row in range(6)], Prompts(), columns, ["train to Lima"])
    first, second = method.select(data, 2, 0), method.select(data, 4, 0)
    assert len(read) == 1 and second.indices[:2].tolist() == first.indices.tolist()
    assert method.reasons(data, first, 0) == ["validation example t:v"] * 2
    bm25.Bm25(method="bm25", k1=0.0).select(data, 2, 0)
    assert len(read) == 2
