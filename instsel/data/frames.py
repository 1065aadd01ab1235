"""Learn what a chat template writes before and after an answer, from conversations of signs."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from os.path import commonprefix
from typing import Any

from instsel.data.messages import BadRow, TurnForm
from instsel.data.signs import Kind, Pieces, Signs
from instsel.data.templates import ChatTemplate

# Thinking, which some templates open in the prompt, is part of the answer.
_THINKING_OPENS = re.compile(r"<[^<>\s/]*(?:think|thought|reason)[^<>\s]*>|<\|?channel\|?>|\[THINK\]", re.IGNORECASE)
_TAG = r"<[^<>\s]{1,60}>|\[/?[A-Z_]+\]"
# Arguments as Python writes them.
_AS_PYTHON = re.compile(r"\{'text': '")
_CALL = {"id": "call00001", "type": "function"}
# The number of its sign, behind those of the question and of the name.
_ARGUMENTS = 2


@dataclass(frozen=True)
class Frame:
    """What a template writes around an answer.

    Attributes:
        header: ends where the assistant starts to write.
        openers: what stands between the header and a text of each kind, and the ends of that, from a mark on.
        endings: marks that end a turn of the assistant, one or the other.
        call_ending: what ends a turn with a tool call, where it is none of them.
        has_end_token: a token stands at the end of a conversation that ends with an answer.
        wants_parts: it reads a turn's content as a list of parts, and not as a text.
        form: in which it wants calls and what tools give back.
    """

    header: str
    openers: dict[Kind, tuple[str, ...]]
    endings: tuple[str, ...]
    call_ending: str
    has_end_token: bool
    wants_parts: bool = False
    form: TurnForm = field(default_factory=TurnForm)

    def start_of_answer(self, literal: str, kind: Kind, before: str = "") -> int:
        """Return where the answer starts in what the template writes before its first text.

        Args:
            literal: what it writes there.
            kind: of that text.
            before: what stands before it in the turn itself.
        """
        for header in (self.header, self.header.rstrip()):
            if header and (index := literal.rfind(header)) >= 0:
                return index + len(header)
        openers = self.openers.get(kind, ())
        for text in (*(opener + before for opener in openers), *openers, before, before.lstrip()):
            if text and literal.endswith(text):
                return len(literal) - len(text)
        return len(literal)

    def end_of_answer(self, literal: str, kind: Kind) -> int | None:
        """Return where the answer ends in what the template writes behind its last text; None if it does not there."""
        endings = (*self.endings, self.call_ending) if kind == "call" else self.endings
        ends = [index + len(ending) for ending in endings if ending and (index := literal.find(ending)) >= 0]
        return min(ends, default=None)


def learn_frame(template: ChatTemplate) -> Frame:
    """Learn what a template writes around answers.

    What it does not write in one of the conversations, or refuses, is left empty.
    """
    tokenizer = template.tokenizer
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if not token.content.isspace()]
    named = {token for token in (tokenizer.bos_token, tokenizer.eos_token) if token}
    tokens = sorted({*added, *named}, key=len, reverse=True)
    tags = re.compile("(" + "|".join([*map(re.escape, tokens), _TAG]) + ")")
    probe = _Probe(template, tags)
    plain = probe.pieces("user", "assistant", "user", "assistant") or probe.pieces("user", "assistant")
    if plain is None:
        return Frame("", {}, (), "", has_end_token=False)
    before, inner, final = plain.literals[1], plain.literals[2], plain.literals[-1]
    header = probe.header(before, final)
    endings = probe.endings(before, inner, final, header)
    again = probe.pieces("user", "assistant", "assistant")
    if again is not None and endings and header and header in again.literals[2]:
        # A turn that is not the last of several by the assistant may end in another way.
        ending = again.literals[2][: again.literals[2].rindex(header)].strip()
        endings = tuple(dict.fromkeys([*endings, ending])) if tags.search(ending) else endings
    frame = Frame(header, {}, endings, "", has_end_token=False)
    openers: dict[Kind, tuple[str, ...]] = {}
    call, called = probe.pieces("user", "call"), probe.pieces("user", "call", "tool", "assistant")
    written: dict[Kind, Pieces | None] = {"text": plain, "reasoning": probe.pieces("user", "thinking"), "call": call}
    for kind, pieces in written.items():
        if pieces is not None:
            literal = pieces.literals[1]
            # Without a header, what it writes before a call and not before a text belongs to the call.
            start = frame.start_of_answer(literal, kind) if header.strip() else len(probe.common(literal, before))
            openers[kind] = probe.ends(literal[start:]) if header.strip() or kind != "text" else ()
    call_ending = ""
    if call is not None:
        shared = call.literals[-1]
        if called is not None:
            shared = probe.common(shared, called.literals[called.order.index(_ARGUMENTS) + 1])
        marks = [mark for mark in tags.findall(shared) if mark not in header]
        if marks and not any(ending in shared for ending in endings):
            call_ending = marks[-1]
    has_end_token = any(token in ending for ending in endings if ending in final for token in tokens)
    # Of a template that does not know calls, a reason that names the call says more than that of a missing content.
    form = TurnForm(probe.call_content or call is None, probe.text_arguments, not probe.writes_objects())
    return Frame(header, openers, endings, call_ending, has_end_token, probe.wants_parts, form)


def _with_text_arguments(turns: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            **turn,
            "tool_calls": [
                {**call, "function": {**call["function"], "arguments": json.dumps(call["function"]["arguments"])}}
                for call in turn["tool_calls"]
            ],
        }
        if "tool_calls" in turn
        else turn
        for turn in turns
    ]


class _Probe:
    def __init__(self, template: ChatTemplate, tags: re.Pattern[str]) -> None:
        self._template, self._tags, self._signs = template, tags, Signs()
        self.wants_parts = self.call_content = self.text_arguments = False

    def pieces(self, *kinds: str, prompt: bool = False) -> Pieces | None:
        """Return what the template writes around the texts of a conversation; None if it leaves out one of them."""
        for turns in self._forms(kinds):
            (rendered,) = self._template.render([turns], prompt=prompt)
            if isinstance(rendered, BadRow) or _AS_PYTHON.search(rendered):
                continue
            pieces = self._signs.split(rendered)
            if self._is_whole(pieces, turns):
                self.wants_parts |= isinstance(turns[0].get("content"), list)
                for turn in turns:
                    for call in turn.get("tool_calls", []):
                        self.call_content |= "content" in turn
                        self.text_arguments |= isinstance(call["function"]["arguments"], str)
                return pieces
        return None

    def writes_objects(self) -> bool:
        """Return whether the template writes what a tool gave back, as an object, with its keys and not as Python."""
        for turns in self._forms(("user", "call", "tool", "assistant")):
            given = [
                {**turn, "content": {"key9": turn["content"]}} if turn["role"] == "tool" else turn for turn in turns
            ]
            (rendered,) = self._template.render([given])
            if not isinstance(rendered, BadRow):
                said = next(turn["content"] for turn in turns if turn["role"] == "tool")
                return said in rendered and "key9" in rendered and "{'key9'" not in rendered
        return False

    def header(self, before: str, final: str) -> str:
        """Return what the template writes to let the assistant speak.

        Args:
            before: what it writes between a question and its answer.
            final: what it writes behind the last answer.
        """
        with_prompt = self.pieces("user", "assistant", "user", prompt=True) or self.pieces("user", prompt=True)
        without = self.pieces("user", "assistant", "user") or self.pieces("user")
        header = ""
        if with_prompt is not None and without is not None:
            prompted = with_prompt.literals[-1]
            header = prompted[len(self.common(prompted, without.literals[-1])) :]
        if not header.strip():
            header = self._constant_header(before, final)
        thinking = _THINKING_OPENS.search(header)
        return header[: thinking.start()] if thinking else header

    def _constant_header(self, before: str, final: str) -> str:
        """Return the header that some templates write at the end of every text, whether they are asked to or not."""
        parts = self._parts(final)
        for index in range(len(parts)):
            header = "".join(parts[index:])
            if header.strip() and header in before:
                # The mark that ends the question is no header, and white space tells nothing.
                header = header.removeprefix(next(iter(self._tags.findall(before)), ""))
                return header if header.strip() else ""
        return ""

    def endings(self, before: str, inner: str, final: str, header: str) -> tuple[str, ...]:
        """Return the marks that end an answer: what stands behind it both at the end and before another turn.

        Args:
            before: what the template writes between a question and its answer.
            inner: what it writes behind an answer that a question follows.
            final: what it writes behind the last answer.
            header: what it writes to let the assistant speak.
        """
        if not final.strip():
            return ()
        shared = ""
        for part in self._parts(self.common(inner, final)):
            if self._tags.match(part) and part in header and self._tags.search(shared):
                break
            shared += part
        tags = list(self._tags.finditer(shared))
        if tags:
            return (shared[: tags[-1].end()].strip(),)
        first = [self._tags.search(text) for text in (before, inner, final)]
        question, answer, end = (tag.group() if tag and tag.group() not in header else "" for tag in first)
        if end or (answer and answer == question):
            return tuple(mark for mark in (end, answer if answer == question else "") if mark)
        return (final.strip(),) if inner.startswith(final.rstrip()) else ()

    def ends(self, text: str) -> tuple[str, ...]:
        """Return a text, and what of it starts with each of its marks."""
        starts = [0, *(tag.start() for tag in self._tags.finditer(text))]
        return tuple(dict.fromkeys(text[start:] for start in starts if text))

    def common(self, left: str, right: str) -> str:
        """Return the text that both begin with, without a part of a mark."""
        shared = ""
        for part, other in zip(self._parts(left), self._parts(right), strict=False):
            if part != other:
                is_mark = self._tags.match(part) or self._tags.match(other)
                return shared if is_mark else shared + commonprefix([part, other])  # noqa: RUF071
            shared += part
        return shared

    def _parts(self, text: str) -> list[str]:
        return [part for part in self._tags.split(text) if part]

    def _forms(self, kinds: Sequence[str]) -> list[list[dict[str, Any]]]:
        """Return a conversation in the forms that templates want."""
        sign = iter(map(self._signs.sign, range(100)))
        plain: list[dict[str, Any]] = []
        for kind in kinds:
            if kind == "thinking":
                plain.append({"role": "assistant", "reasoning_content": next(sign), "content": next(sign)})
            elif kind == "call":
                function = {"name": next(sign), "arguments": {"text": next(sign)}}
                plain.append({"role": "assistant", "tool_calls": [{**_CALL, "function": function}]})
            elif kind == "tool":
                plain.append({"role": "tool", "tool_call_id": _CALL["id"], "name": "look", "content": next(sign)})
            else:
                plain.append({"role": kind, "content": next(sign)})
        # Some templates want a system turn, a content beside a call, or contents in parts.
        forms = [plain, [{"role": "system", "content": "Be brief."}, *plain]]
        if "call" in kinds:
            forms.append([{"content": "", **turn} for turn in plain])
            return [*forms, *map(_with_text_arguments, (forms[0], forms[2]))]
        return [*forms, [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in plain]]

    def _is_whole(self, pieces: Pieces, turns: Sequence[dict[str, Any]]) -> bool:
        texts = repr(turns).count(self._signs.stem)
        return set(pieces.order) == set(range(texts)) and (
            "tool_calls" in repr(turns) or pieces.order == tuple(range(texts))
        )
