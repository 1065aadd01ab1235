"""Options of a question, found in its prompt as people write them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

# "A. text", "(b) text", "3) text" on a line of its own.
_LETTERED = re.compile(r"^[ \t]*\(?([A-Za-z]|\d{1,2})[.):]\)?[ \t]+(\S.*?)[ \t]*$", re.MULTILINE)
# "Answer1: west Answer2: east", on one line or on several, as the sets of LLM-Adapters have it.
_NAMED = re.compile(
    r"\b((?:answer|option|choice|solution|ending) ?(?:\d|[A-E]))[ \t]*:[ \t]*(.*?)[ \t]*"
    r"(?=\b(?:answer|option|choice|solution|ending) ?(?:\d|[A-E])[ \t]*:|$)",
    re.IGNORECASE | re.MULTILINE,
)


@dataclass(frozen=True)
class OptionList:
    """Options that stand in a prompt.

    Attributes:
        labels: "A", "3" or "answer1", as they are written.
        texts: of the options.
        start: position of the first label's line or part in the prompt.
    """

    labels: list[str]
    texts: list[str]
    start: int


def option_lists(prompt: str) -> list[OptionList]:
    """Find lists of options in a prompt: lines with letters or numbers, then parts named "Answer1:", "Option A:", ...

    Labels of a list follow one another; where they start again at A, a or 1, another list begins. The last list of a
    prompt comes first: those before it belong to examples.
    """
    return [*_lists(_LETTERED, prompt), *_lists(_NAMED, prompt)]


def _lists(pattern: re.Pattern[str], prompt: str) -> list[OptionList]:
    lists: list[OptionList] = []
    for match in pattern.finditer(prompt):
        label, text = match.groups()
        if label[-1] in "Aa1" and (len(label) == 1 or not label.isdigit()):
            lists.append(OptionList([], [], match.start()))
        if lists and _follows(lists[-1].labels, label):
            lists[-1].labels.append(label)
            lists[-1].texts.append(text)
    return lists[::-1]


def _follows(labels: Sequence[str], label: str) -> bool:
    if not labels:
        return True
    before = labels[-1]
    if before.isdigit() or label.isdigit():
        return before.isdigit() and label.isdigit() and int(label) == int(before) + 1
    return label[:-1].lower() == before[:-1].lower() and ord(label[-1]) == ord(before[-1]) + 1
