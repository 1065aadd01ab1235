"""Where the answers of a conversation stand in its rendered text, from its first token to the mark that ends its turn.

The conversation is rendered twice, whole: as it is, and with a sign in place of each text. What stands between two
signs is the template's own, so that the second rendering says where everything stands in the first, whatever the
number of turns. What the template writes around answers is learnt once, from made-up conversations.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from instsel.data.frames import Frame, learn_frame
from instsel.data.messages import BadRow
from instsel.data.signs import Piece, Pieces, Signs, align, occurs
from instsel.data.templates import ChatTemplate
from instsel.data.turns import Turn

_MOST_LAYOUTS = 1_000
_MOST_REMEMBERED = 20_000
# What closes thinking, with the white space after it.
_THINKING_CLOSES = re.compile(
    r"(?:</\w*(?:think|thought|reason)\w*>|\[/THINK\]|<\|END_THINKING\|>|<channel\|>)\s*", re.IGNORECASE
)

_Point = tuple[int, int]


@dataclass(slots=True)
class AnswerSpan:
    """Characters of an answer, or of a part of it, in a rendered text.

    Attributes:
        start: where the assistant starts to write.
        spoken: where it does so without its reasoning.
        end: behind the mark that ends its turn.
    """

    start: int
    spoken: int
    end: int


@dataclass(slots=True)
class Answers:
    """Answers in a rendered text.

    Attributes:
        spans: of each turn of the assistant; several where the template writes another turn inside.
        words: of each, start and end of the text that it says, without anything that the template writes around it.
        dropped_reasoning: number of turns whose reasoning the template leaves out.
    """

    spans: dict[int, list[AnswerSpan]]
    words: dict[int, tuple[int, int]]
    dropped_reasoning: int


@dataclass(frozen=True)
class _Bounds:
    """Points of an `AnswerSpan`: a literal of the layout, and an offset in it."""

    start: _Point
    spoken: _Point
    end: _Point


@dataclass(frozen=True)
class _Layout:
    """What the template writes of a kind of conversation; `texts` are those of its first row."""

    pieces: Pieces
    texts: tuple[Piece, ...]
    bounds: dict[int, list[_Bounds]]
    words: dict[int, tuple[_Point, _Point]]
    missing: tuple[int, ...]
    dropped_reasoning: int


class AnswerFinder:
    """Finds answers in the texts that a chat template renders.

    Args:
        template: the chat template.
    """

    def __init__(self, template: ChatTemplate) -> None:
        self.template = template
        self._signs = Signs(source=template.source)
        self._frame: Frame | None = None
        self._layouts: dict[str, _Layout] = {}

    @property
    def frame(self) -> Frame:
        """What the template writes around answers."""
        if self._frame is None:
            self._frame = learn_frame(self.template)
        return self._frame

    def find(self, messages: Sequence[Turn], tools: Any, text: str) -> Answers:
        """Find the answers of a conversation in its rendered text.

        Raises:
            BadRow: the template loses or changes what a turn says, or writes turns in a way that depends on their text.
        """
        layout, texts = self._read(messages, tools, text)
        for number in layout.missing:
            if layout.texts[number].kind != "reasoning":
                raise _loss(layout.texts[number], wants_parts=self.frame.wants_parts)
        starts, wrong = align(text, layout.pieces, texts)
        if wrong is not None:
            raise _misfit(layout.texts, texts, wrong, text)

        def position(point: _Point) -> int:
            return starts[point[0]] + point[1]

        spans = {
            turn: [AnswerSpan(position(part.start), position(part.spoken), position(part.end)) for part in parts]
            for turn, parts in layout.bounds.items()
        }
        words = {turn: (position(start), position(end)) for turn, (start, end) in layout.words.items()}
        for turn, message in enumerate(messages):
            if message.get("role") == "assistant" and turn not in spans:
                raise BadRow(f"turn {turn + 1}, assistant, says nothing")
        if not all(occurs(name, text) for name in _names(tools)):
            raise BadRow("the chat template leaves out tools of the row")
        return Answers(spans, words, layout.dropped_reasoning)

    def _read(self, messages: Sequence[Turn], tools: Any, text: str) -> tuple[_Layout, list[str]]:
        """Return the layout of a conversation and its texts; rows of the same turns share a layout."""
        plain = self._signs.cores(messages) if tools is None else None
        if plain is not None and plain[0] in self._layouts:
            return self._layouts[plain[0]], plain[1]
        signs = self._signs if self._signs.stem not in text else Signs(text, self.template.source)
        signed, pieces = signs.exchange(messages)
        key = plain[0] if plain is not None else json.dumps([signed, tools], ensure_ascii=False, default=str)
        layout = self._layouts.get(key)
        if layout is None:
            (rendered,) = self.template.render([signed], tools)
            if isinstance(rendered, BadRow):
                raise rendered
            layout = self._compile(signs.split(rendered), pieces)
            if len(self._layouts) >= _MOST_LAYOUTS:
                self._layouts.clear()
            if len(key) <= _MOST_REMEMBERED:
                self._layouts[key] = layout
        return layout, [piece.text for piece in pieces]

    def _compile(self, pieces: Pieces, texts: Sequence[Piece]) -> _Layout:
        firsts: dict[int, int] = {}
        for index, number in enumerate(pieces.order):
            firsts.setdefault(number, index)
        by_turn: dict[int, list[int]] = {}
        for number, index in firsts.items():
            if texts[number].role == "assistant":
                by_turn.setdefault(texts[number].turn, []).append(index)
        bounds: dict[int, list[_Bounds]] = {}
        words: dict[int, tuple[_Point, _Point]] = {}
        for turn, indices in by_turn.items():
            indices.sort()
            bounds[turn] = [self._bounds(pieces, texts, part) for part in _parts(pieces, texts, indices)]
            said = [index for index in indices if texts[pieces.order[index]].kind == "text"] or indices[:1]
            words[turn] = ((said[0], len(pieces.literals[said[0]])), (said[-1] + 1, 0))
        missing = tuple(number for number in range(len(texts)) if number not in firsts)
        # A thought goes by several names, of which the template reads one.
        thinking = {texts[number].turn for number in firsts if texts[number].kind == "reasoning"}
        dropped = {texts[number].turn for number in missing if texts[number].kind == "reasoning"} - thinking
        return _Layout(pieces, tuple(texts), bounds, words, missing, len(dropped))

    def _bounds(self, pieces: Pieces, texts: Sequence[Piece], indices: Sequence[int]) -> _Bounds:
        """Return the points of an answer whose texts stand behind the literals of some indices."""
        said = {index: texts[pieces.order[index]] for index in indices}

        def start_at(index: int) -> int:
            return self.frame.start_of_answer(pieces.literals[index], said[index].kind, said[index].before)

        end = self._end(pieces, texts, indices[-1])
        spoken = next((index for index in indices if said[index].kind != "reasoning"), None)
        if spoken is None:
            return _Bounds((indices[0], start_at(indices[0])), end, end)
        closed = [close.end() for close in _THINKING_CLOSES.finditer(pieces.literals[spoken])]
        return _Bounds((indices[0], start_at(indices[0])), (spoken, max([start_at(spoken), *closed])), end)

    def _end(self, pieces: Pieces, texts: Sequence[Piece], last: int) -> _Point:
        """Return the end of an answer whose last text stands behind literal `last`."""
        text = texts[pieces.order[last]]
        for index in range(last + 1, len(pieces.literals)):
            length = self.frame.end_of_answer(pieces.literals[index], text.kind)
            if length is not None:
                return index, length
            # The name of a call may be written again in the same turn.
            if index < len(pieces.order) and texts[pieces.order[index]].turn != text.turn:
                break
        behind = pieces.literals[last + 1]
        if text.kind == "call":
            # Its arguments stand behind its name, and nothing ends them.
            return last + 1, len(behind.rstrip())
        tag = text.after.rstrip()
        return last + 1, len(tag) if behind.startswith(tag) else 0


def _names(tools: Sequence[Any] | None) -> list[str]:
    functions = [tool.get("function", tool) for tool in tools or [] if isinstance(tool, dict)]
    return [str(function["name"]) for function in functions if isinstance(function, dict) and "name" in function]


def _parts(pieces: Pieces, texts: Sequence[Piece], indices: Sequence[int]) -> list[list[int]]:
    """Part the texts of a turn where one of another turn stands between two of them."""
    parts = [[indices[0]]]
    for before, index in pairwise(indices):
        turns = {texts[pieces.order[between]].turn for between in range(before, index + 1)}
        if len(turns) > 1:
            parts.append([])
        parts[-1].append(index)
    return parts


def _loss(piece: Piece, *, wants_parts: bool = False) -> BadRow:
    what = {"text": "the text", "reasoning": "the reasoning", "call": "a tool call"}[piece.kind]
    why = "; it reads content as a list of parts" if wants_parts else ""
    return BadRow(f"the chat template drops or changes a turn: {what} of turn {piece.turn + 1}, {piece.role}{why}")


def _misfit(pieces: Sequence[Piece], texts: Sequence[str], wrong: int, text: str) -> BadRow:
    """Return the reason for a row of which the template makes something else than of its signs."""
    for piece, core in zip(pieces, texts, strict=True):
        if piece.kind != "reasoning" and not occurs(core, text):
            return _loss(piece)
    turn = f"turn {pieces[wrong].turn + 1}, {pieces[wrong].role}," if pieces else "a turn"
    return BadRow(f"the chat template writes {turn} by what its text is, so answers cannot be marked")
