import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instsel.mixture import categories as naming
from instsel.mixture.categories import name_clusters, naming_rows, words_of


def rows(*clusters):
    return [(text, label) for label, texts in enumerate(clusters) for text in texts]


MATHS = ["Find the angle of the triangle", "Triangle area and angle", "What is the area of a triangle?"] * 4
CODE = ["Write a python function", "A function in python that sorts", "Sort with python"] * 4
MAPS = ["Where is the capital of France?", "The capital of Peru", "Which river is in the capital?"] * 4


def test_clusters_are_named_by_the_words_that_tell_them_apart():
    names = name_clusters(rows(MATHS, CODE, MAPS))
    assert [name.split("-")[0] for name in names] == ["triangle", "python", "capital"]
    assert names[0] in ("triangle-angle-area", "triangle-area-angle")


def test_words_that_all_clusters_have_alike_tell_nothing_in_any_language():
    german = [[f"die {word} und das {word} mit der anderen" for _ in range(9)] for word in ("Katze", "Straße", "Übung")]
    assert name_clusters(rows(*german)) == ["katze", "straße", "übung"]


def test_english_stop_words_and_numbers_are_no_names():
    assert name_clusters(rows(["about the 2024 which 123 cat"] * 5, ["dog"] * 5)) == ["cat", "dog"]


def test_forms_of_one_word_are_taken_once():
    texts = ["sentence sentences grammar verb noun"] * 5
    assert name_clusters(rows(texts, ["dog"] * 5))[0] == "grammar-noun-sentence"


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["请翻译这个句子", "翻译成英文"], "翻译"),
        (["数学の問題を解く", "数学を学ぶ"], "数学"),
        (["プログラミング・言語", "プログラミングする"], "プログラミング"),
        (["수학 문제를 풀어라", "수학 시험"], "수학"),
        (["Решите уравнение", "уравнение и корень"], "уравнение"),
        (["हिन्दी में अनुवाद", "हिन्दी भाषा"], "हिन्दी"),
        (["ما عاصمة مصر", "عاصمة فرنسا"], "عاصمة"),
        (["re\u0301sume\u0301 court", "un re\u0301sume\u0301"], "r\u00e9sum\u00e9"),
    ],
)
def test_words_of_other_scripts_are_kept_whole(texts, expected):
    name = name_clusters(rows(texts * 4, ["another thing"] * 8))[0]
    assert name.split("-")[0] == expected


@pytest.mark.parametrize("texts", [["?!"] * 3, ["the and of"] * 3, ["12 34"] * 3, [""] * 3])
def test_a_cluster_without_telling_words_has_its_number(texts):
    assert name_clusters(rows(CODE, texts))[1] == "cluster-1"


def test_clusters_that_are_alike_have_numbers():
    assert name_clusters(rows(CODE, CODE, CODE)) == ["cluster-0", "cluster-1", "cluster-2"]


def test_a_word_of_one_row_among_many_does_not_name_them():
    assert name_clusters(rows(["zebra zebra zebra", *["?"] * 9], CODE * 4))[0] == "cluster-0"
    assert name_clusters(rows(["zebra", "zebra", *["?"] * 8], CODE * 4))[0] == "zebra"
    assert name_clusters(rows(["zebra", "zebra", *["?"] * 99], CODE * 99))[0] == "cluster-0"


def test_a_word_counts_once_a_row():
    texts = ["often often often rare"] * 3 + ["rare"] * 2
    assert name_clusters(rows(texts, ["dog"] * 9))[0] == "rare"


def test_words_that_do_not_fit_into_a_name_are_left_out():
    texts = [f"{'a' * 20} {'b' * 18} {'c' * 19} {'d' * 25} e2e"] * 3
    names = name_clusters(rows(texts, texts, *[["dog"] * 9] * 9))
    assert names[:2] == [f"{'a' * 20}-{'b' * 18}", f"{'a' * 20}-{'b' * 17}-2"]


def test_a_name_that_is_taken_gives_way_to_the_next_words_and_then_to_a_number():
    twins = ["alpha beta gamma delta"] * 5
    names = name_clusters(rows(twins, twins, *[["dog"] * 5] * 8))
    assert names[:2] == ["alpha-beta-delta", "alpha-beta-gamma"]
    twins = ["alpha beta gamma"] * 5
    names = name_clusters(rows(twins, twins, *[["dog"] * 5] * 8))
    assert names[0] == "alpha-beta-gamma"
    assert names[1] == "alpha-beta"


def test_taken_short_names_have_numbers():
    names = name_clusters(rows(*[["alpha"] * 5] * 3, *[["dog cat cow"] * 5] * 9))
    assert names[:3] == ["alpha", "alpha-2", "alpha-3"]


def test_a_label_without_rows_has_its_number():
    assert name_clusters([("python code", 0), ("python code", 0), ("triangle", 2)])[1] == "cluster-1"
    assert name_clusters([]) == []


def test_rows_are_read_once_and_their_order_does_not_matter():
    given_rows = rows(MATHS, CODE, MAPS)
    assert name_clusters(iter(given_rows[::-1])) == name_clusters(given_rows)


def test_only_the_beginning_of_a_text_counts():
    assert words_of("x " * 500 + "zebra") == []


words = st.text(st.characters(codec="utf-8"), max_size=60)


@given(st.lists(st.tuples(words, st.integers(0, 4)), max_size=30))
def test_names_are_unique_short_and_fit_for_files(given_rows):
    names = name_clusters(given_rows)
    assert len({name.lower() for name in names}) == len(names)
    for name in names:
        assert 0 < len(name) <= 40
        assert name == name.lower()
        assert re.fullmatch(rf"[^\W_](?:[^\W_]|[{naming._MARKS}]|-)*", name)


def test_naming_rows_are_a_uniform_share_of_every_cluster(monkeypatch):
    monkeypatch.setattr(naming, "CLUSTER_ROWS", 50)
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [1000, 200, 7]))
    chosen = naming_rows(labels)
    assert chosen.dtype == np.int64
    assert (np.diff(chosen) > 0).all()
    assert np.bincount(labels[chosen]).tolist() == [50, 50, 7]
    assert chosen.tolist() == naming_rows(labels.copy()).tolist()
    of_first = np.searchsorted(np.flatnonzero(labels == 0), chosen[labels[chosen] == 0])
    assert 300 < of_first.mean() < 700
    assert of_first.max() > 800


def test_naming_rows_of_many_clusters_are_bounded_together(monkeypatch):
    monkeypatch.setattr(naming, "ROWS", 30)
    assert np.bincount(np.arange(1000) % 10)[naming_rows(np.arange(1000) % 10) % 10].size == 30
    assert naming_rows(np.arange(100)).tolist() == list(range(100))
    assert naming_rows(np.zeros(0, dtype=np.int64)).tolist() == []


@pytest.mark.parametrize("labels", [np.array([-1, 0]), np.array([0.0]), np.zeros((2, 2), dtype=int)])
def test_what_are_no_labels_is_refused(labels):
    with pytest.raises(ValueError, match="whole numbers from 0"):
        naming_rows(labels)
