import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instsel.mixture import tagging as module
from instsel.mixture.tagging import clean_tag, merge_tags


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  Reading   Comprehension.\n", "reading comprehension"),
        ("**Maths**", "maths"),
        ("\u201cdata_analysis\u201d", "data analysis"),
        ("common-sense / logic", "common-sense / logic"),
        ("C++", "c++"),
        ("#C#!", "c#"),
        ("Ｍａｔｈｓ", "maths"),
        ("数学。", "数学"),
        ("हिन्दी", "हिन्दी"),
        ("\ud83dmaths\x00", "maths"),
        ("a" * 59 + " bcd", "a" * 59),
        (" ...!?", ""),
        ("++", ""),
        ("", ""),
    ],
)
def test_tags_are_cleaned(text, expected):
    assert clean_tag(text) == expected


@given(st.text(max_size=80))
def test_a_clean_tag_is_short_and_stays_as_it_is(text):
    clean = clean_tag(text)
    assert clean_tag(clean) == clean
    assert len(clean) <= 60
    assert clean == clean.strip().lower()


def unit(*parts):
    return np.array(parts, dtype=np.float32)


MEANING = {
    "maths": unit(1, 0, 0, 0),
    "mathematics": unit(1, 0.2, 0, 0),
    "algebra": unit(1, 1.1, 0, 0),
    "cooking": unit(0, 0, 1, 0),
    "recipes": unit(0, 0, 1, 0.3),
    "baking": unit(0, 0, 1, 2),
    "poetry": unit(0, 1, 0, 0.2),
}


def embed(texts):
    return np.stack([MEANING[text] for text in texts])


COUNTS = {"maths": 50, "mathematics": 60, "algebra": 9, "cooking": 7, "recipes": 3, "baking": 2, "poetry": 30}


def test_near_duplicates_are_merged_under_the_most_frequent_name():
    found = merge_tags(COUNTS, embed, 10)
    assert found == {
        "maths": "mathematics",
        "mathematics": "mathematics",
        "algebra": "algebra",
        "cooking": "cooking",
        "recipes": "cooking",
        "baking": "baking",
        "poetry": "poetry",
    }


def test_small_categories_join_the_one_most_like_them_until_few_are_left():
    four = merge_tags(COUNTS, embed, 4)
    assert four["baking"] == four["recipes"] == "cooking"
    assert four["algebra"] == "algebra"
    three = merge_tags(COUNTS, embed, 3)
    assert three["algebra"] == "mathematics"
    assert set(three.values()) == {"mathematics", "cooking", "poetry"}
    assert set(merge_tags(COUNTS, embed, 1).values()) == {"mathematics"}


def test_small_tags_of_one_topic_gather_before_they_reach_a_large_one():
    axes = np.eye(10)
    where = {"pets": axes[0], "maths": axes[1], "art": axes[2] + 0.1 * axes[0]}
    fish = [f"fish {number}" for number in range(6)]
    for number, name in enumerate(fish):
        where[name] = axes[3] + axes[4 + number] + 0.2 * axes[number % 2]
    counts = {"pets": 100, "maths": 90, "art": 10, **dict.fromkeys(fish, 3)}
    found = merge_tags(counts, lambda texts: np.stack([where[text] for text in texts]), 3)
    assert found == {"pets": "pets", "maths": "maths", "art": "pets", **dict.fromkeys(fish, "fish 0")}


def naive_fold(counts, vectors, most):
    """Join the smallest, every mean and cosine worked out anew; no two tags are the same."""
    categories = [[tag] for tag in sorted(counts, key=lambda tag: (-counts[tag], tag))]

    def mean(members):
        units = [vectors[tag] / np.linalg.norm(vectors[tag]) for tag in members]
        total = sum(counts[tag] * unit for tag, unit in zip(members, units, strict=True))
        return total / np.linalg.norm(total)

    while len(categories) > most:
        smallest = min(reversed(categories), key=lambda members: sum(counts[tag] for tag in members))
        categories.remove(smallest)
        likest = max(categories, key=lambda members: mean(members) @ mean(smallest))
        likest += smallest
        categories.sort(key=lambda members: min((-counts[tag], tag) for tag in members))
    names = {min(members, key=lambda tag: (-counts[tag], tag)): members for members in categories}
    return {tag: name for name, members in names.items() for tag in members}


@pytest.mark.parametrize("seed", range(6))
def test_merging_agrees_with_a_naive_one(seed):
    random = np.random.default_rng(seed)
    vectors = {f"tag {number}": random.normal(size=32) for number in range(60)}
    counts = {tag: int(rows) for tag, rows in zip(vectors, random.integers(1, 9, 60), strict=True)}
    for most in (1, 7, 30):
        found = merge_tags(counts, lambda texts: np.stack([vectors[text] for text in texts]), most)
        assert found == naive_fold(counts, vectors, most)


@given(st.permutations(list(COUNTS)), st.integers(1, 8))
def test_the_order_of_the_tags_does_not_matter(order, most):
    shuffled = merge_tags({tag: COUNTS[tag] for tag in order}, embed, most)
    assert shuffled == merge_tags(COUNTS, embed, most)
    assert len(set(shuffled.values())) <= most
    assert set(shuffled) == set(COUNTS)
    assert all(shuffled[name] == name for name in shuffled.values())


def test_of_equally_frequent_tags_the_first_in_the_alphabet_names():
    assert set(merge_tags({"maths": 5, "mathematics": 5}, embed, 3).values()) == {"mathematics"}
    # Of equally small categories the last in the alphabet joins: poetry, which is most like algebra.
    found = merge_tags({"poetry": 5, "cooking": 5, "algebra": 5}, embed, 2)
    assert found == {"poetry": "algebra", "cooking": "cooking", "algebra": "algebra"}


def test_the_rarest_tags_go_with_the_nearest_of_those_that_are_merged(monkeypatch):
    monkeypatch.setattr(module, "EXACT_TAGS", 3)
    asked = []

    def watched(texts):
        asked.append(texts)
        return embed(texts)

    counts = {"maths": 9, "cooking": 8, "poetry": 7, "baking": 6, "algebra": 5, "recipes": 4, "mathematics": 3}
    found = merge_tags(counts, watched, 10)
    assert asked == [["maths", "cooking", "poetry"], ["baking", "algebra", "recipes"], ["mathematics"]]
    assert found == {
        "maths": "maths", "cooking": "cooking", "poetry": "poetry", "baking": "cooking", "algebra": "poetry",
        "recipes": "cooking", "mathematics": "maths",
    }  # fmt: skip


def test_rare_tags_count_to_the_size_of_their_category(monkeypatch):
    monkeypatch.setattr(module, "EXACT_TAGS", 3)
    counts = {"maths": 9, "poetry": 5, "cooking": 4, "recipes": 3, "baking": 2}
    assert set(merge_tags(counts, embed, 2).values()) == {"maths", "cooking"}


def test_a_tag_without_a_direction_merges_with_nothing_that_means_the_same():
    found = merge_tags({"maths": 5, "cooking": 4, "?": 3}, lambda texts: np.stack([
        MEANING.get(text, unit(0, 0, 0, 0)) for text in texts]), 3)  # fmt: skip
    assert found == {"maths": "maths", "cooking": "cooking", "?": "?"}


def test_few_tags():
    assert merge_tags({}, embed, 3) == {}
    assert merge_tags({"maths": 1}, embed, 1) == {"maths": "maths"}


@pytest.mark.parametrize(
    ("counts", "most", "embedding", "message"),
    [
        ({"maths": 0}, 1, embed, "maths"),
        ({"maths": 1}, 0, embed, "most"),
        ({"maths": 1, "cooking": 1}, 1, lambda texts: np.ones((1, 3)), "1 rows for 2 tags"),
        ({"maths": 1}, 1, lambda texts: np.full((1, 3), np.nan), "finite|nan"),
    ],
)
def test_bad_input_is_refused(counts, most, embedding, message):
    with pytest.raises(ValueError, match=message):
        merge_tags(counts, embedding, most)
