"""The shapes in which rows have a conversation: lists of turns, prompts with answers, preference rows, transcripts."""

import json
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Literal

from pydantic import JsonValue

from instsel.config.rows import RowFormat
from instsel.console import one_line
from instsel.data import keys
from instsel.data.messages import BadRow, Turn
from instsel.data.options import option_lists
from instsel.data.other_answers import choices_of
from instsel.data.row_turns import TurnReader, from_json, text_of, turns_in

MOST_KEYS_NAMED = 8
NO_ANSWER = "no assistant turn"
# "\n\nHuman: ... \n\nAssistant: ..." and "### Human: ... ### Assistant: ...", as published sets have it.
_TRANSCRIPT = re.compile(r"(?:^|\n\s*)(?:### ?)?(Human|Assistant):[ \t]?|### ?(Human|Assistant):[ \t]?")


@dataclass(frozen=True)
class RowLayout:
    """Where a row has what: as the entry of a pool or target says it.

    Attributes:
        row_format: "messages", "sharegpt", "alpaca", or "auto" to tell it from the row's keys.
        columns: what a column is for -> its name, several for `choices`.
        roles: a name of a role -> user, assistant, system or tool.
        preference: what is done with rows of a chosen and a rejected answer.
    """

    row_format: RowFormat = "auto"
    columns: Mapping[Any, str | Sequence[str]] = field(default_factory=dict)
    roles: Mapping[str, str] = field(default_factory=dict)
    preference: Literal["chosen", "reject"] = "chosen"


def _have_answer(turns: Sequence[Turn]) -> bool:
    return any(turn["role"] == "assistant" for turn in turns)


def _number_of(answer: JsonValue, options: Sequence[str], listed: JsonValue) -> JsonValue:
    """Return the number of an option, from 0, that an answer names by its label or, as CSV has it, by a text."""
    labels = listed.get("label") if isinstance(listed, dict) else None
    if not isinstance(answer, str):
        return answer
    if isinstance(labels, list) and len(labels) == len(options) and answer in labels:
        return labels.index(answer)
    is_number = answer.strip().isdecimal() and answer.strip().isascii()
    return int(answer) if is_number and answer.strip() not in options else answer


class RowParts:
    """A row whose keys are taken one by one; what nobody took is left."""

    def __init__(self, raw: Mapping[str, JsonValue], layout: RowLayout) -> None:
        self.raw, self.layout = raw, layout
        self.reader = TurnReader(layout.roles)
        self.taken: set[str] = set()

    def take(self, key: str) -> JsonValue:
        self.taken.add(key)
        return self.raw.get(key)

    def key_of(self, name: str, known: Sequence[str]) -> str | None:
        """Return the row's key of something: the user's column, else the first known one that is there."""
        column = self.layout.columns.get(name)
        if isinstance(column, str):
            return column
        return next((key for key in known if self.raw.get(key) is not None), None)

    def of_column(self, name: str, key: str) -> JsonValue:
        """Return what the user's column of something holds, else a key."""
        return self.raw.get(self._column(name, key))

    def named(self, name: str, key: str) -> JsonValue:
        """Take the user's column of something, else a key."""
        return self.take(self._column(name, key))

    def _column(self, name: str, key: str) -> str:
        column = self.layout.columns.get(name)
        return column if isinstance(column, str) else key

    def _lettered(self) -> list[str]:
        """Return the columns A, B, ... of a question whose options stand in columns, as MMLU has them."""
        letters = list(takewhile(lambda letter: self.raw.get(letter) is not None, string.ascii_uppercase))
        return letters if len(letters) > 1 and self.raw.get("choices") is None else []

    def options(self) -> JsonValue:
        """Return the row's choices, and take the columns that they are in."""
        column = self.layout.columns.get("choices") or self._lettered() or "choices"
        return self.take(column) if isinstance(column, str) else [self.take(each) for each in column]

    def rest(self) -> dict[str, JsonValue]:
        return {key: value for key, value in self.raw.items() if key not in self.taken and value is not None}

    def turns(self) -> list[Turn]:
        """Read the turns, in the first of the shapes that the row has."""
        self._reject_unwanted()
        shape = self.layout.row_format
        list_key = self._turn_list() if shape != "alpaca" else None
        if list_key is not None:
            turns = self._after_system(self.reader.list_of(list_key, self.take(list_key)))
            is_answered = turns[-1]["role"] == "assistant"
            if not is_answered and (self.raw.get("chosen") is not None or not _have_answer(turns)):
                return self._with_answer(turns)
            return turns
        pair = self._pair() if shape in ("auto", "alpaca") else None
        if pair is not None:
            return self._after_system(self._of_pair(*pair))
        if self.raw.get("chosen") is not None and shape == "auto":
            return self._after_system(self._chosen())
        if shape == "auto" and isinstance(self.raw.get("text"), str):
            return self._of_text("text")
        raise BadRow(self._none_of_the_formats())

    def answer_key(self) -> str | None:
        """Return the key of the answer of a prompt and its answer; None where the row has turns or another shape."""
        shape = self.layout.row_format
        if shape not in ("auto", "alpaca") or (shape == "auto" and self._turn_list() is not None):
            return None
        pair = self._pair()
        return None if pair is None else pair[1]

    def _turn_list(self) -> str | None:
        columns, shape = self.layout.columns, self.layout.row_format
        if "messages" in columns:
            return str(columns["messages"])
        if columns.keys() & {"prompt", "answer"}:
            return None
        if shape == "messages":
            return "messages"
        if shape == "sharegpt":
            return "conversations"
        # By value, not only by key: in Parquet every row has every column, null if it is of another format.
        return next((key for key in keys.TURN_LISTS if self.raw.get(key) is not None and self._holds_turns(key)), None)

    def _holds_turns(self, key: str) -> bool:
        value = self.raw[key]
        if key in ("items", "turns"):
            turns = turns_in(value)
            # Texts under `turns` are, in MT-Bench, what the user asks one after the other.
            return isinstance(turns, dict) or (
                isinstance(turns, list) and not all(isinstance(item, str) for item in turns)
            )
        if key in ("messages", "conversations"):
            return True
        return isinstance(value, list | dict) or (isinstance(value, str) and value.lstrip()[:1] in ("[", "{"))

    def _pair(self) -> tuple[str, str] | None:
        prompt, answer = self.layout.columns.get("prompt"), self.layout.columns.get("answer")
        if isinstance(prompt, str) and isinstance(answer, str):
            return prompt, answer
        pairs = keys.PAIRS[:1] if self.layout.row_format == "alpaca" else keys.PAIRS
        return next((pair for pair in pairs if all(self.raw.get(key) is not None for key in pair)), None)

    def _of_pair(self, prompt_key: str, answer_key: str) -> list[Turn]:
        prompt, answer = turns_in(self.take(prompt_key)), self._first_answer(self.take(answer_key))
        if isinstance(prompt, list):
            answer = turns_in(answer)
        if isinstance(prompt, list) or isinstance(answer, list):
            return [*self._side(prompt_key, prompt, "user"), *self._side(answer_key, answer, "assistant")]
        question = self._question(prompt_key, prompt)
        question, right = self._with_options(question, answer, answer_key)
        turn: Turn = {"role": "assistant", "content": right}
        thought_key = self.key_of("reasoning", keys.REASONING)
        # `true` says that there are thoughts, not what they are.
        if thought_key is not None and self.raw.get(thought_key) and not isinstance(self.raw[thought_key], bool):
            turn[keys.REASONING[0]] = text_of(self.take(thought_key), f"`{thought_key}`")
        return [*self._history(), {"role": "user", "content": question}, turn]

    def _question(self, prompt_key: str, prompt: JsonValue) -> str:
        """Return a prompt with the text that belongs to it: the user's column, or one that is known."""
        question = text_of(prompt, f"`{prompt_key}`")
        columns = self.layout.columns
        known = prompt_key == "instruction" or (prompt_key in keys.WITH_CONTEXT and "prompt" not in columns)
        more_key = self.key_of("input", keys.CONTEXTS) if known or "input" in columns else None
        more = self.take(more_key) if more_key else None
        more_text = "" if more is None else text_of(more, f"`{more_key}`")
        return "\n\n".join(part for part in (question, more_text) if part)

    def _first_answer(self, answer: JsonValue) -> JsonValue:
        """Return the first of several answers, which is the preferred one; all else as it is."""
        if not isinstance(answer, list) or not answer or not all(isinstance(each, str) for each in answer):
            return answer
        self._check_preference()
        return answer[0]

    def _side(self, key: str, value: JsonValue, role: str) -> list[Turn]:
        """Return a prompt or an answer, which may be a list of turns."""
        if isinstance(value, list) and not all(isinstance(each, str) for each in value):
            return self.reader.list_of(key, value)
        return [{"role": role, "content": text_of(value, f"`{key}`")}]

    def _with_options(self, question: str, answer: JsonValue, answer_key: str) -> tuple[str, str]:
        """Write options under the question, and an answer that is the number of one as its letter."""
        asked = "choices" in self.layout.columns or bool(self._lettered())
        listed = self.options()
        options = choices_of(listed)
        answer = _number_of(answer, options, listed) if asked else answer
        is_number = isinstance(answer, int) and not isinstance(answer, bool)
        asked = asked or is_number or _is_unseen_letter(answer, options, question)
        if not options or not asked or len(options) > len(string.ascii_uppercase):
            return question, text_of(answer, f"`{answer_key}`")
        if isinstance(answer, int) and is_number:
            if not 0 <= answer < len(options):
                raise BadRow(f"`{answer_key}` is {answer}, and there are {len(options)} choices, from 0")
            answer = string.ascii_uppercase[answer]
        lines = [f"{letter}. {option}" for letter, option in zip(string.ascii_uppercase, options, strict=False)]
        return "\n".join([question, *lines]), text_of(answer, f"`{answer_key}`")

    def _history(self) -> list[Turn]:
        key = self.key_of("history", [keys.HISTORY])
        history = self.take(key) if key else None
        if isinstance(history, str) and history.strip():
            history = from_json(str(key), history)
        if not history:
            return []
        if not isinstance(history, list):
            raise BadRow(f"`{key}` is not a list of questions and answers")
        if all(isinstance(pair, dict) for pair in history):
            return self.reader.list_of(str(key), history)
        if not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
            raise BadRow(f"`{key}` is not a list of questions and answers")
        said = [each for pair in history if isinstance(pair, list) for each in pair]
        return self.reader.list_of(str(key), [text_of(each, f"`{key}`") for each in said])

    def _after_system(self, turns: list[Turn]) -> list[Turn]:
        """Put the row's system text before the turns."""
        key = self.key_of("system", keys.SYSTEMS)
        system = self.take(key) if key else None
        # An empty cell of a table is no turn; a turn that is written and empty is one.
        if system is None or system == "":
            return turns
        return [{"role": "system", "content": text_of(system, f"`{key}`")}, *turns]

    def _with_answer(self, turns: list[Turn]) -> list[Turn]:
        """Add the chosen answer to turns that end in a question."""
        if self.raw.get("chosen") is None:
            raise BadRow(NO_ANSWER)
        self._check_preference()
        return [*turns, *self._answer_turns("chosen", turns_in(self.take("chosen")))]

    def _chosen(self) -> list[Turn]:
        self._check_preference()
        chosen = self.raw["chosen"]
        if isinstance(chosen, str) and _TRANSCRIPT.match(chosen):
            return self._of_text("chosen")
        prompt_key = self.key_of("prompt", keys.PROMPTS)
        answer = self._answer_turns("chosen", turns_in(self.take("chosen")))
        if any(turn["role"] == "user" for turn in answer):
            # The prompt stands in it already, whatever else repeats it.
            return answer
        if prompt_key is None:
            raise BadRow("`chosen` is an answer without a prompt")
        prompt = turns_in(self.take(prompt_key))
        if not isinstance(prompt, list):
            prompt = self._question(prompt_key, prompt)
        return [*self._history(), *self._side(prompt_key, prompt, "user"), *answer]

    def _answer_turns(self, key: str, value: JsonValue) -> list[Turn]:
        if isinstance(value, dict):
            return [self.reader.turn(value, 1)]
        return self._side(key, value, "assistant")

    def _of_text(self, key: str) -> list[Turn]:
        """Read a whole conversation in one text, its turns marked by "Human:" and "Assistant:"."""
        text = str(self.take(key))
        marks = list(_TRANSCRIPT.finditer(text))
        if not marks or text[: marks[0].start()].strip():
            raise BadRow(f"`{key}` is text without turns; answers are trained on, and nothing says which part is one")
        ends = [mark.start() for mark in marks[1:]] + [len(text)]
        roles = {"Human": "user", "Assistant": "assistant"}
        return [
            {"role": roles[mark.group(1) or mark.group(2)], "content": text[mark.end() : end].strip()}
            for mark, end in zip(marks, ends, strict=True)
        ]

    def _check_preference(self) -> None:
        if self.layout.preference == "reject":
            raise BadRow("a row of answers chosen and rejected (data.preference: reject)")

    def _reject_unwanted(self) -> None:
        unwanted = next((key for key in keys.UNWANTED if self._is_false(key)), None)
        if unwanted is not None and self.raw.get("chosen") is None:
            raise BadRow(f"`{unwanted}` is false: an unwanted answer")
        if self.raw.get("chosen") is not None and self.raw.get("rejected") is not None:
            self._check_preference()
            self.taken.update(keys.PREFERENCE)

    def _is_false(self, key: str) -> bool:
        """Whether a key says false: as a text too, as cells of CSV are, and as 0 in a row of prompt and completion."""
        value = self.raw.get(key)
        text = value.strip().lower() if isinstance(value, str) else json.dumps(value)
        return text == "false" or (text in ("0", "0.0") and self.raw.get("completion") is not None)

    def _none_of_the_formats(self) -> str:
        if self.layout.row_format != "auto":
            return f"not of format {self.layout.row_format}"
        present = [key for key, value in self.raw.items() if value is not None]
        named = ", ".join(one_line(key) for key in present[:MOST_KEYS_NAMED]) or "none"
        more = ", ..." if len(present) > MOST_KEYS_NAMED else ""
        return f"no turns and no prompt with an answer among its keys ({named}{more}); name them under `columns`"


def _is_unseen_letter(answer: JsonValue, options: Sequence[str], question: str) -> bool:
    """Whether an answer is the letter of an option, and the question does not show the options."""
    letters = string.ascii_uppercase[: len(options)]
    is_letter = isinstance(answer, str) and answer not in options and answer.strip() in tuple(letters)
    return is_letter and not any(len(each.texts) == len(options) for each in option_lists(question))
