"""Other answers to a prompt, that the right one is compared with: its own options, or what other items answer."""

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import JsonValue

from instsel.data.options import option_lists

_PUNCTUATION = re.compile(f"[{re.escape(string.punctuation)}]")
_BULLET = re.compile(r"^[ \t]*[-*\u2022][ \t]+(\S.*?)[ \t]*$", re.MULTILINE)


@dataclass(frozen=True)
class AnsweredItem:
    """A prompt and its right answer.

    Attributes:
        id: of the item, unique; the draw depends on it.
        group: items whose answers are exchanged: a target's subtask.
        prompt: what the options are looked for in.
        answer: the right answer, as it is written.
        choices: options that come with the item, none if it has none.
    """

    id: str
    group: str
    prompt: str
    answer: str
    choices: Sequence[str] = ()


def normalise(text: str) -> str:
    """Return a text in lower case, without punctuation, with single spaces; a text of punctuation alone as it is."""
    return " ".join(_PUNCTUATION.sub(" ", text.lower()).split()) or text.strip()


def other_answers(items: Sequence[AnsweredItem], count: int, seed: int) -> list[list[str]]:
    """Draw other answers to each item.

    They are the item's own options where it has options, in the form in which it answers (letters for a letter, texts
    for a text); else the answers of other items of its group that differ from its own after `normalise`, each
    different answer with the same chance. What is drawn for an item does not depend on the order of the items.

    Args:
        items: n of them.
        count: the most for each.
        seed: of the draw.

    Returns:
        A list an item, empty where there is no other answer.
    """
    by_group: dict[str, dict[str, str]] = {}
    # In the order of ids, so that of two spellings of an answer always the same one stands for both.
    for item in sorted(items, key=lambda each: each.id):
        by_group.setdefault(item.group, {}).setdefault(normalise(item.answer), item.answer)
    drawn = []
    for item in items:
        candidates = options(item) or list(by_group[item.group].values())
        different = {normalise(each): each for each in candidates}
        different.pop(normalise(item.answer), None)
        texts = [different[key] for key in sorted(different)]
        generator = np.random.default_rng([seed, *item.id.encode()])
        drawn.append([texts[index] for index in generator.permutation(len(texts))[:count]])
    return drawn


def options(item: AnsweredItem) -> list[str]:
    """Return the options of an item other than its answer, in the form of the answer; none where it has no options.

    Options are those that come with the item, or are found in its prompt: lines with letters or numbers, lines with
    bullets, or parts named "Answer1:", "Option A:" and the like. They count if the answer is one of them: by text, by
    label, by both, or as a sentence that ends in the label.
    """
    for labels, texts in _lists(item):
        if len(texts) < 2:
            continue
        others = (
            _of_labels(item.answer, labels, texts)
            or _of_texts(item.answer, texts)
            or _of_sentences(item.answer, labels)
        )
        if others:
            return others
    return []


def choices_of(value: JsonValue) -> list[str]:
    """Return the options that a row lists under `choices`: texts or numbers, or {"text": [...]}; none for all else."""
    if isinstance(value, Mapping):
        value = value.get("text")
    if not isinstance(value, list):
        return []
    good = all(isinstance(each, str | int | float) and not isinstance(each, bool) for each in value)
    texts = [str(each) for each in value] if good else []
    return texts if all(text.strip() for text in texts) else []


def _lists(item: AnsweredItem) -> list[tuple[list[str], list[str]]]:
    """Return lists that may be the options, the likeliest first: labels, or none, and texts."""
    labelled = [(each.labels, each.texts) for each in option_lists(item.prompt)]
    bullets: tuple[list[str], list[str]] = ([], _BULLET.findall(item.prompt))
    if not item.choices:
        return [*labelled, bullets]
    labels = next((labels for labels, texts in labelled if len(texts) == len(item.choices)), [])
    letters = list(string.ascii_uppercase[: len(item.choices)])
    choices = [choice.strip() for choice in item.choices]
    return [(labels or (letters if len(letters) == len(choices) else []), choices)]


def _of_labels(answer: str, labels: Sequence[str], texts: Sequence[str]) -> list[str]:
    """Return the answer with each other label in place of its own; none where it is no label, or label and text."""
    for index, label in enumerate(labels):
        others = [other for other in range(len(labels)) if other != index]
        pattern = _pattern(label)
        both = re.fullmatch(rf"(\W*){pattern}(\W+){re.escape(texts[index])}(\W*)", answer.strip())
        if both:
            before, between, after = both.groups()
            return [f"{before}{labels[other]}{between}{texts[other]}{after}" for other in others]
        alone = re.fullmatch(rf"(\W*)({pattern})(\W*)", answer)
        if alone:
            return _exchanged(alone, labels, others)
    return []


def _of_sentences(answer: str, labels: Sequence[str]) -> list[str]:
    """Return a sentence that ends in a label, "the correct answer is answer2", with each other label; else none."""
    for index, label in enumerate(labels):
        # A sentence may end in any number.
        ends = None if label.isdigit() else re.fullmatch(rf"(.*\W)({_pattern(label)})(\W*)", answer, re.DOTALL)
        if ends:
            return _exchanged(ends, labels, [other for other in range(len(labels)) if other != index])
    return []


def _pattern(label: str) -> str:
    return re.escape(label) if len(label) == 1 else f"(?i:{re.escape(label)})"


def _exchanged(match: re.Match[str], labels: Sequence[str], others: Sequence[int]) -> list[str]:
    before, written, after = match.groups()
    as_written = str.lower if len(written) > 1 and written.islower() else str
    return [f"{before}{as_written(labels[other])}{after}" for other in others]


def _of_texts(answer: str, texts: Sequence[str]) -> list[str]:
    """Return the options other than the answer; none where it is not one of them."""
    key = normalise(answer)
    if key not in {normalise(text) for text in texts}:
        return []
    return [text for text in texts if normalise(text) != key]
