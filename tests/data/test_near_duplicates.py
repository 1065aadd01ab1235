"""Candidates by bands, and which rows stay, against plain loops over all pairs."""

from itertools import combinations
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instsel.data.near_duplicates import (
    BANDS,
    NEIGHBOURS,
    SIGNATURE_VERSION,
    TEMPLATE_ROWS,
    TEMPLATE_SAMPLE,
    NearCopy,
    band_keys,
    candidate_pairs,
    distinct_pairs,
    is_sampled,
    merge_labels,
    near_copies,
    row_key,
    sampled_ngrams,
    template_ngrams,
)
from instsel.data.row_changes import RowWords, near_copy, row_words
from instsel.data.words import KnownHashes, empty

WORDS = [f"{first}{second}{third}" for first in "bdgklm" for second in "aeiou" for third in "nrst"]


def row(words: list[str], answer: str = "This is what I have to say about it.") -> RowWords:
    turns = [("user", " ".join(words)), ("assistant", answer)]
    return row_words([{"role": role, "content": text} for role, text in turns])


def make_pool(seed: int, rows: int = 60) -> list[RowWords]:
    """Random texts of 30 to 80 words, every third of them a copy of an earlier one with a change or two."""
    lot = Random(seed)
    texts: list[list[str]] = []
    for number in range(rows):
        text = [lot.choice(WORDS) for _ in range(lot.randint(30, 80))]
        if number % 3 == 2:
            text = list(lot.choice(texts))
            text[lot.randrange(len(text))] = lot.choice(WORDS)
            text = [*lot.sample(WORDS, lot.randint(0, 6)), *text]
        texts.append(text)
    return [row(text) for text in texts]


def pairs_by_bands(rows: list[RowWords], numbers: list[int] | None = None) -> np.ndarray:
    of_rows = np.arange(len(rows)) if numbers is None else np.array(numbers)
    keys = band_keys([each.content_shingles for each in rows])
    pairs = [candidate_pairs(keys[:, band], keys[:, (band + 1) % BANDS], of_rows) for band in range(BANDS)]
    return distinct_pairs(np.concatenate(pairs))


def by_all_pairs(rows: list[RowWords], threshold: float) -> list[NearCopy]:
    """The oracle: every row against every earlier one that stays."""
    copies: list[NearCopy] = []
    stays: list[int] = []
    for number, each in enumerate(rows):
        for kept in stays:
            similarity = near_copy(rows[kept], each, threshold)
            if similarity is not None:
                copies.append(NearCopy(number, kept, similarity))
                break
        else:
            stays.append(number)
    return copies


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("threshold", [0.5, 0.6, 0.9])
def test_bands_find_what_all_pairs_do(seed: int, threshold: float) -> None:
    rows = make_pool(seed)
    found = list(near_copies(pairs_by_bands(rows), rows.__getitem__, threshold))
    assert found == by_all_pairs(rows, threshold)
    assert len(found) >= (15 if threshold < 0.9 else 1)


@pytest.mark.parametrize("seed", range(3))
def test_pairs_do_not_depend_on_the_order_of_rows(seed: int) -> None:
    rows = make_pool(seed)
    order = Random(seed).sample(range(len(rows)), len(rows))
    shuffled = pairs_by_bands([rows[number] for number in order], order)
    assert shuffled.tolist() == pairs_by_bands(rows).tolist()


def test_a_row_is_compared_with_the_row_that_stays() -> None:
    """A chain, each a word from the one before: the last are too far from the first, and stay or go with the sixth."""
    lot = Random(0)
    text = [lot.choice(WORDS) for _ in range(40)]
    chain = []
    for number in range(12):
        text = [*text]
        text[3 * number] = f"other{'abcdefghijkl'[number]}"
        chain.append(row(text))
    links = np.array([(number, number + 1) for number in range(11)])
    found = list(near_copies(links, chain.__getitem__, 0.5))
    assert {copy.row: copy.kept for copy in found} == {1: 0, 3: 2, 5: 4, 7: 6, 9: 8, 11: 10}
    assert all(near_copy(chain[copy.kept], chain[copy.row], 0.5) == copy.similarity for copy in found)


def test_a_copy_of_a_copy_is_compared_with_its_original() -> None:
    original = row(WORDS[:40])
    first, second = row(["so", *WORDS[:40]]), row(["and", "so", *WORDS[:40]])
    found = list(near_copies(np.array([(0, 1), (1, 2)]), [original, first, second].__getitem__, 0.6))
    assert [(copy.row, copy.kept) for copy in found] == [(1, 0), (2, 0)]


def test_signatures_are_those_of_the_version_that_is_stored() -> None:
    """Fails where the library gives other signatures for the same words: raise the version of the stage then."""
    assert SIGNATURE_VERSION == 2
    keys = band_keys([np.arange(1, 60, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15), empty()])
    assert keys.shape == (2, BANDS)
    assert not keys[1].any()
    assert keys[0, [0, 1, BANDS - 1]].tolist() == [11901711807428519526, 15765470617600197120, 18391633943951907969]


@pytest.mark.parametrize(("shared", "least", "most"), [(0.2, 0.0, 0.15), (0.6, 0.95, 1.0), (0.8, 0.99, 1.0)])
def test_bands_find_rows_by_how_much_they_share(shared: float, least: float, most: float) -> None:
    """Of 300 pairs with 100 distinct shingles together."""
    lot = np.random.default_rng(0)
    rows = []
    for _ in range(300):
        both = lot.integers(0, 2**63, 100).astype(np.uint64)
        own = round((100 - 100 * shared) / 2)
        rows += [both[own:], both[: 100 - own]]
    keys = band_keys(rows)
    share = float((keys[::2] == keys[1::2]).any(axis=1).mean())
    assert least <= share <= most


_keys = st.lists(st.integers(0, 6), max_size=8 + 1)


@given(_keys)
def test_in_small_buckets_all_pairs_are_candidates(values: list[int]) -> None:
    keys, rows = np.array(values, dtype=np.uint64), np.arange(len(values)) * 2 + 1
    expected = [
        [int(rows[one]), int(rows[other])]
        for one, other in combinations(range(len(values)), 2)
        if values[one] == values[other] != 0
    ]
    assert candidate_pairs(keys, keys, rows).tolist() == expected


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 50)), max_size=120), st.integers(1, 4))
def test_buckets_may_be_dealt_out_to_tasks(values: list[tuple[int, int]], tasks: int) -> None:
    keys, ties = (np.array([value[part] for value in values], dtype=np.uint64) for part in (0, 1))
    rows = np.arange(len(values))
    whole = candidate_pairs(keys, ties, rows)
    of_tasks = [rows[keys % np.uint64(tasks) == task] for task in range(tasks)]
    parts = [candidate_pairs(keys[each], ties[each], each) for each in of_tasks]
    assert distinct_pairs(np.concatenate(parts)).tolist() == whole.tolist()
    # No pair of each with each, but every row is connected to the first of its bucket.
    assert len(whole) <= (NEIGHBOURS + 1) * len(values)
    first = {key: number for number, key in reversed(list(enumerate(keys.tolist())))}
    linked = {tuple(pair) for pair in whole.tolist()}
    assert all(
        (first[key], number) in linked for number, key in enumerate(keys.tolist()) if key and first[key] < number
    )


_edges = st.lists(st.tuples(st.integers(0, 14), st.integers(0, 14)), max_size=12)


@given(st.lists(_edges, max_size=4))
def test_labels_are_the_smallest_row_that_is_connected(bands: list[list[tuple[int, int]]]) -> None:
    labels = np.arange(15)
    for edges in bands:
        labels = merge_labels(labels, np.array(edges, dtype=np.int64).reshape(-1, 2))
    groups = [{number} for number in range(15)]
    for one, other in (edge for edges in bands for edge in edges):
        merged = groups[one] | groups[other]
        for number in merged:
            groups[number] = merged
    assert labels.tolist() == [min(group) for group in groups]


def test_an_ngram_of_ten_different_rows_is_a_template() -> None:
    form = "please say in one word what this is"
    for count in (TEMPLATE_ROWS - 1, TEMPLATE_ROWS):
        rows = [row([*form.split(), WORDS[number]]) for number in range(count)]
        # What is written otherwise and says the same is no other row.
        rows += [row([*form.upper().split(), f"{WORDS[0]}!"]) for _ in range(5)]
        keys = np.array([row_key(each) for each in rows], dtype=np.uint64)
        templates = template_ngrams(keys, [sampled_ngrams(each) for each in rows])
        expected = set.intersection(*(set(sampled_ngrams(each).tolist()) for each in rows))
        assert set(templates.tolist()) == (expected if count == TEMPLATE_ROWS else set())
        assert sorted(templates.tolist()) == templates.tolist()


@settings(deadline=None)
@given(st.permutations(range(14)))
def test_templates_do_not_depend_on_the_order_of_rows(order: list[int]) -> None:
    rows = [row(["what", "is", "the", "word", "for", WORDS[number % 12]]) for number in range(14)]
    keys, ngrams = np.array([row_key(each) for each in rows], dtype=np.uint64), [sampled_ngrams(each) for each in rows]
    templates = template_ngrams(keys, ngrams)
    assert len(templates) > 0
    assert template_ngrams(keys[order], [ngrams[number] for number in order]).tolist() == templates.tolist()


def test_rows_without_words_or_content_are_in_no_bucket() -> None:
    silent = row_words([{"role": "user", "content": "?!"}, {"role": "assistant", "content": "..."}])
    assert row_key(silent) == 0
    full = row(WORDS[:9])
    bare = row_words(
        [{"role": "user", "content": " ".join(WORDS[:9])}, {"role": "assistant", "content": "yes"}],
        KnownHashes(np.unique(sampled_ngrams(full))),
    )
    assert len(silent.content_shingles) == 0
    assert not band_keys([silent.content_shingles, empty()]).any()
    assert bare.content < full.content


def test_all_of_a_small_pool_is_sampled_and_a_share_of_a_large_one() -> None:
    ids = np.random.default_rng(0).integers(0, 2**64, 100_000, dtype=np.uint64)
    assert is_sampled(ids, TEMPLATE_SAMPLE).all()
    share = is_sampled(ids, 10 * TEMPLATE_SAMPLE).mean()
    assert share == pytest.approx(0.1, rel=0.05)
