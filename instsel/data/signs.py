"""Exchange the texts of a conversation for signs, and find in the rendered text what the template made of each."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Literal

from instsel.data.keys import REASONING
from instsel.data.turns import THINK_TAG, Turn, split_thoughts

Kind = Literal["text", "reasoning", "call"]
# Whole tags in quotes: what a template may look for in a text, such as '</think>' or "<tool_response>".
_QUOTED_TAG = re.compile(r"""(['"])\s*([<\[][^'"\s]{1,40}[>\]])\s*\1""")


@dataclass(frozen=True)
class Piece:
    """A text that the template gets: which turn says it, and as what.

    `before` and `after` stand around it in the same content and are not exchanged: white space, and tags.
    """

    turn: int
    role: str
    kind: Kind
    text: str
    before: str = ""
    after: str = ""


@dataclass(frozen=True)
class Pieces:
    """What a template writes of a conversation of signs: `literals` of its own, and between them texts by number."""

    literals: tuple[str, ...]
    order: tuple[int, ...]


class Signs:
    """Signs that no text contains: letters and digits, which no template takes apart or escapes.

    Args:
        text: in which they must not occur.
        source: the template's text. Tags that it looks for in a turn stay, so that it goes the same ways.
    """

    def __init__(self, text: str = "", source: str = "") -> None:
        self.stem = next(stem for number in count() if (stem := f"Q{number}XZJ") not in text)
        self._split = re.compile(f"{self.stem}([0-9]+)Q")
        tags = sorted({tag for _, tag in _QUOTED_TAG.findall(source)}, key=len, reverse=True)
        self._tags = re.compile("|".join(map(re.escape, tags))) if tags else None
        self._structure = re.compile("|".join([THINK_TAG.pattern, *map(re.escape, tags)]))

    def sign(self, number: int) -> str:
        """Return a sign."""
        return f"{self.stem}{number}Q"

    def split(self, rendered: str) -> Pieces:
        """Split a rendered conversation of signs."""
        parts = self._split.split(rendered)
        return Pieces(tuple(parts[::2]), tuple(map(int, parts[1::2])))

    def cores(self, messages: Sequence[Turn]) -> tuple[str, list[str]] | None:
        """Return what `exchange` gives for turns of plain text: the texts, and a key that tells its turns from others.

        None if a turn has more than a role and a text, or a tag that a template may look for.
        """
        keys, cores = [], []
        for message in messages:
            content = message.get("content")
            if len(message) != 2 or not isinstance(content, str):
                return None
            core = content.strip()
            if ("<" in core or "[" in core) and self._structure.search(core):
                return None
            before = len(content) - len(content.lstrip()) if len(core) < len(content) else 0
            keys.append(f"{message.get('role')}\0{content[:before]}\0{content[before + len(core) :]}\0{bool(core)}")
            if core:
                cores.append(core)
        return "\0".join(keys), cores

    def exchange(self, messages: Sequence[Turn]) -> tuple[list[dict[str, Any]], list[Piece]]:
        """Return turns with signs in place of their texts, and the texts by number.

        White space around a text stays, as a template may treat it as its own or remove it. Of a tool call the name
        is exchanged; its arguments stay.
        """
        signed: list[dict[str, Any]] = []
        pieces: list[Piece] = []
        for turn, message in enumerate(messages):
            role = str(message.get("role"))
            copy = dict(message)
            for key, value in message.items():
                if key == "content":
                    copy[key] = self._content(value, Piece(turn, role, "text", ""), pieces)
                elif key in REASONING and isinstance(value, str):
                    copy[key] = self._text(value, Piece(turn, role, "reasoning", ""), pieces)
                elif key == "tool_calls" and isinstance(value, list):
                    copy[key] = [self._call(call, Piece(turn, role, "call", ""), pieces) for call in value]
            signed.append(copy)
        return signed, pieces

    def _content(self, value: Any, like: Piece, pieces: list[Piece]) -> Any:
        if isinstance(value, list):
            return [
                {**part, "text": self._content(part["text"], like, pieces)}
                if isinstance(part, Mapping) and isinstance(part.get("text"), str)
                else part
                for part in value
            ]
        if not isinstance(value, str):
            return value
        if like.role != "assistant":
            return self._tagged(value, like, pieces)
        first = len(pieces)
        thought = replace(like, kind="reasoning")
        signed = "".join(
            self._tagged(part, thought if is_thought else like, pieces) if index % 2 == 0 else part
            for index, (part, is_thought) in enumerate(split_thoughts(value))
        )
        if len(pieces) == first:
            # Tags alone, or nothing.
            return self._text(value, like, pieces)
        pieces[first] = replace(pieces[first], before=signed.partition(self.sign(first))[0])
        pieces[-1] = replace(pieces[-1], after=signed.rpartition(self.sign(len(pieces) - 1))[2])
        return signed

    def _tagged(self, text: str, like: Piece, pieces: list[Piece]) -> str:
        """Exchange what stands between the tags that the template knows."""
        if self._tags is None or ("<" not in text and "[" not in text):
            return self._text(text, like, pieces)
        signed, start = "", 0
        for tag in self._tags.finditer(text):
            signed += self._text(text[start : tag.start()], like, pieces) + tag.group()
            start = tag.end()
        return signed + self._text(text[start:], like, pieces)

    def _text(self, text: str, like: Piece, pieces: list[Piece]) -> str:
        core = text.strip()
        if not core:
            return text
        pieces.append(Piece(like.turn, like.role, like.kind, core))
        before = len(text) - len(text.lstrip())
        return f"{text[:before]}{self.sign(len(pieces) - 1)}{text[before + len(core) :]}"

    def _call(self, call: Any, like: Piece, pieces: list[Piece]) -> Any:
        if not isinstance(call, Mapping):
            return call
        inner = call.get("function")
        if isinstance(inner, Mapping):
            return {**call, "function": self._call(inner, like, pieces)}
        name = call.get("name")
        return {**call, "name": self._text(name, like, pieces)} if isinstance(name, str) else call


def align(text: str, layout: Pieces, texts: Sequence[str]) -> tuple[list[int], int | None]:
    """Find what the template wrote itself, and between it the texts, in a rendered conversation.

    A text may have other white space than the row has it, or be written as JSON.

    Returns:
        The start of each literal, up to the first that is not found, and the number of the text that is not the same
        there; None if all is found.
    """
    starts = [0]
    position = len(layout.literals[0])
    if not text.startswith(layout.literals[0]):
        return [], layout.order[0] if layout.order else 0
    last = len(layout.literals) - 1
    for index, number in enumerate(layout.order, start=1):
        core, literal = texts[number], layout.literals[index]
        end = position + len(core)
        if not (text.startswith(core, position) and _follows(text, literal, end, is_last=index == last)):
            ends = _other_ends(text, core, position)
            end = next((end for end in ends if _follows(text, literal, end, is_last=index == last)), -1)
            if end < 0:
                return starts, number
        starts.append(end)
        position = end + len(literal)
    return starts, None


def occurs(core: str, text: str) -> bool:
    """Return whether a text stands anywhere in a rendered conversation, in any form that `align` knows."""
    return any(form in text for form in (core, _as_json(core))) or "".join(core.split()) in "".join(text.split())


def _follows(text: str, literal: str, position: int, *, is_last: bool) -> bool:
    return text.startswith(literal, position) and (not is_last or position + len(literal) == len(text))


def _other_ends(text: str, core: str, position: int) -> Iterator[int]:
    """Yield where a text may end that is written in another form."""
    for form in (_as_json(core), json.dumps(core)[1:-1]):
        if text.startswith(form, position):
            yield position + len(form)
    words = re.compile(r"\s*" + r"\s*".join(map(re.escape, core.split())))
    match = words.match(text, position)
    if match:
        yield match.end()


def _as_json(core: str) -> str:
    return json.dumps(core, ensure_ascii=False)[1:-1]
