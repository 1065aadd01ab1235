"""Turns of a conversation before a template writes them: which are trained, system turns, reasoning, their texts."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

from instsel.data.keys import REASONING
from instsel.data.messages import BadRow

Turn = Mapping[str, Any]
SYSTEM_ROLES = ("system", "developer")
THINK_TAG = re.compile(
    r"(?i:<(/?)(?:think|thinking|thought|reasoning)>|\[(/?)THINK\]|<\|(?:begin|(end))_of_thought\|>)"
)


@dataclass(frozen=True)
class Dialogue:
    """A row to encode.

    Attributes:
        messages: its turns, with every key that the chat template may read.
        tools: JSON schemas of the tools that the assistant may call.
        trained: for each turn whether it is marked as one to train on; None for a turn without a mark.
    """

    messages: Sequence[Turn]
    tools: list[dict[str, Any]] | None = None
    trained: Sequence[bool | None] | None = None


@dataclass(frozen=True)
class EncodingOptions:
    """How conversations become tokens and labels.

    Attributes:
        max_length: maximum length in tokens; longer texts are truncated at their end. None for no limit.
        train_on: label all answers, the last one, or those that are marked as true. An answer that is marked as false
            is never labelled.
        reasoning: label it as part of the answer, leave it in the text without a label, or remove it from the turns.
        system: leave system turns as they are, write each before the text of the next user turn, or remove them.
        today: the date that templates write; the current one if None.
        append_end: append the tokenizer's end of text, labelled, to a conversation that ends with an answer, if the
            template writes no token there that ends it (`lacks_end_mark`).
    """

    max_length: int | None = None
    train_on: Literal["all", "last", "marked"] = "all"
    reasoning: Literal["train", "mask", "drop"] = "train"
    system: Literal["keep", "first_user", "drop"] = "keep"
    today: date | None = None
    append_end: bool = False


def prepare_turns(dialogue: Dialogue, options: EncodingOptions) -> tuple[list[Turn], frozenset[int]]:
    """Apply the options to a conversation, and choose the answers to label.

    Returns:
        The turns for the template, and the indices of those to label.

    Raises:
        BadRow: no answer is to be labelled, or a turn cannot be changed as the options say.
        ValueError: there are more or fewer marks than turns.
    """
    if dialogue.trained is not None and len(dialogue.trained) != len(dialogue.messages):
        raise ValueError(f"{len(dialogue.trained)} marks for {len(dialogue.messages)} turns")
    messages = list(dialogue.messages)
    marks: Sequence[bool | None] = dialogue.trained if dialogue.trained is not None else [None] * len(messages)
    if options.system != "keep":
        messages, marks = _without_system(messages, marks, merge=options.system == "first_user")
    if options.reasoning != "train":
        messages = _with_thoughts_apart(messages, drop=options.reasoning == "drop")
    answers = [index for index, message in enumerate(messages) if message.get("role") == "assistant"]
    if not answers:
        raise BadRow("no assistant turn")
    if options.train_on == "last":
        answers = answers[-1:]
    elif options.train_on == "marked":
        answers = [index for index in answers if marks[index]]
    if dialogue.trained is not None:
        answers = [index for index in answers if marks[index] is not False]
    if not answers:
        raise BadRow("no assistant turn is marked to be trained on")
    return messages, frozenset(answers)


def split_thoughts(content: str) -> list[tuple[str, bool]]:
    """Split an answer at its tags of thinking, such as <think>, into parts that join to it again.

    Returns:
        The parts, and for each whether it is a thought; tags are not. A closing tag ends a thought that begins with
        the text, since some models are given the opening one. A thought without an end is text.
    """
    parts: list[tuple[str, bool]] = []
    start, opened = 0, None
    for tag in THINK_TAG.finditer(content):
        closes = any(tag.groups())
        thought = closes and (opened is not None or not any(part.strip() for part, _ in parts))
        parts += [(content[start : tag.start()], thought), (tag.group(), False)]
        start, opened = tag.end(), None if closes else tag.start()
    return [*parts, (content[start:], False)]


def texts_of(value: Any) -> Iterator[str]:
    """Yield all texts in a turn, a tool or a list of them, keys among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield key
            yield from texts_of(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from texts_of(item)


def content_text(message: Turn) -> str | None:
    """Return the text of a turn's content, parts joined; None if it has no content."""
    content = message.get("content")
    if content is None or isinstance(content, str):
        return content
    return "".join(texts_of([part.get("text") if isinstance(part, Mapping) else part for part in content]))


def _without_system(
    messages: Sequence[Turn], marks: Sequence[bool | None], *, merge: bool
) -> tuple[list[Turn], list[bool | None]]:
    kept: list[Turn] = []
    kept_marks: list[bool | None] = []
    waiting: list[str] = []
    for message, mark in zip(messages, marks, strict=True):
        if message.get("role") in SYSTEM_ROLES:
            text = content_text(message)
            if merge and text and text.strip():
                waiting.append(text)
            continue
        if waiting and message.get("role") == "user":
            kept.append(_with_text_before(message, "\n\n".join(waiting)))
            waiting = []
        else:
            kept.append(message)
        kept_marks.append(mark)
    if waiting:
        raise BadRow("no user turn after a system turn, which `system: first_user` needs")
    return kept, kept_marks


def _with_text_before(message: Turn, text: str) -> Turn:
    content = message.get("content")
    if isinstance(content, list):
        return {**message, "content": [{"type": "text", "text": f"{text}\n\n"}, *content]}
    return {**message, "content": f"{text}\n\n{content}" if content else text}


def _with_thoughts_apart(messages: Sequence[Turn], *, drop: bool) -> list[Turn]:
    """Check that thoughts can be told from answers, and remove them if they are to be dropped."""
    for number, message in enumerate(messages, start=1):
        _check_thought(message, number)
    if not drop:
        return list(messages)
    return [_without_reasoning(message, number) for number, message in enumerate(messages, start=1)]


def _check_thought(message: Turn, number: int) -> None:
    """Check that a thought with which an answer begins has an end, so that it can be told from the answer.

    Raises:
        BadRow: it has none.
    """
    content = message.get("content")
    if message.get("role") != "assistant" or not isinstance(content, str):
        return
    tags = list(THINK_TAG.finditer(content))
    if tags and not content[: tags[0].start()].strip() and not any(any(tag.groups()) for tag in tags):
        raise BadRow(f"turn {number}, assistant, is a thought without an end")


def _without_reasoning(message: Turn, number: int) -> Turn:
    if message.get("role") != "assistant":
        return message
    kept = {key: value for key, value in message.items() if key not in REASONING}
    content = kept.get("content")
    if isinstance(content, str) and THINK_TAG.search(content):
        kept["content"] = _without_thoughts(content)
        if not kept["content"].strip() and not kept.get("tool_calls"):
            raise BadRow(f"turn {number}, assistant, is reasoning alone")
    return kept


def _without_thoughts(content: str) -> str:
    """Remove thoughts with their tags, and the white space after them."""
    parts = split_thoughts(content)
    removed = set()
    for index, (_, thought) in enumerate(parts):
        if thought:
            removed |= {index - 1, index, index + 1}
    text = ""
    for index, (part, _) in enumerate(parts):
        if index not in removed:
            text += part.lstrip() if index - 1 in removed else part
    return text
