"""Render conversations with a chat template, tokenise them, and mark the answer tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from os.path import commonprefix
from typing import Any

from instsel.data.formats import BadRow, Message
from instsel.errors import InputError

IGNORED = -100


@dataclass(frozen=True)
class Example:
    """Token ids and labels of a conversation; a label equals its token inside answers and is -100 elsewhere."""

    input_ids: list[int]
    labels: list[int]
    truncated: bool

    @property
    def answer_tokens(self) -> int:
        """Number of tokens in the loss; the first token of a text is not predicted."""
        return sum(label != IGNORED for label in self.labels[1:])


def prompt_text(messages: Sequence[Message]) -> str:
    """Return the contents of all messages before the last assistant turn, a line break between two, without roles.

    Roles and template marks are the same in all rows, and no text that encoders were trained on has them.
    """
    turns = [turn for turn, message in enumerate(messages) if message["role"] == "assistant"]
    return "\n".join(message["content"] for message in messages[: turns[-1]])


def check_tokenizer(tokenizer: Any) -> None:
    """Check that answers can be marked with a tokenizer.

    Raises:
        InputError: it has no chat template, or does not give the character offsets of tokens.
    """
    if not tokenizer.chat_template:
        raise InputError("the tokenizer has no chat template; set model.chat_template to the path of a Jinja file")
    if not tokenizer.is_fast:
        raise InputError("the tokenizer has no fast version, which answer marking needs; use a model that has one")


def encode(tokenizer: Any, messages: list[Message], max_length: int) -> Example:
    """Render and tokenise a conversation, and mark its answer tokens.

    Answer tokens are those of assistant turns: the template's output after the generation prompt, up to and including
    the end-of-turn token, without trailing white space. If a turn does not follow that prompt, such as the first of a
    conversation, its answer starts with its content. A text longer than `max_length` tokens is truncated at its end.

    Args:
        tokenizer: a fast Hugging Face tokenizer with a chat template.
        messages: turns of the conversation.
        max_length: maximum length in tokens.

    Raises:
        BadRow: the template rejects or drops turns, the text of a turn contains a special token, which could end the
            turn and start another, or truncation leaves no answer token.
    """
    text = _checked_text(tokenizer, messages)
    spans = [
        _answer_span(tokenizer, messages, turn, text) for turn, m in enumerate(messages) if m["role"] == "assistant"
    ]
    return _marked(tokenizer, text, spans, max_length)


def encode_answer(tokenizer: Any, messages: list[Message], max_length: int) -> Example:
    """Render and tokenise a conversation, and mark the words of its last turn alone, without its end-of-turn token.

    Args:
        tokenizer: a fast Hugging Face tokenizer with a chat template.
        messages: turns of the conversation; the last one is the assistant's.
        max_length: maximum length in tokens; a longer text is truncated at its end.

    Raises:
        BadRow: as `encode`, or the last turn is not the assistant's.
    """
    if not messages or messages[-1]["role"] != "assistant":
        raise BadRow("the last turn is not the assistant's")
    text = _checked_text(tokenizer, messages)
    first, end = _answer_span(tokenizer, messages, len(messages) - 1, text)
    content = messages[-1]["content"].strip()
    start = text.rfind(content, first, end)
    if start < 0:
        raise BadRow("the chat template rewrites the answer")
    # A token may begin with the white space before the answer.
    leading = len(text[first:start]) - len(text[first:start].rstrip())
    return _marked(tokenizer, text, [(start - leading, start + len(content))], max_length)


def _checked_text(tokenizer: Any, messages: list[Message]) -> str:
    """Render a conversation, and check that the template neither drops turns nor takes text for its own tokens."""
    special = _special_tokens(tokenizer, tokenizer.get_chat_template())
    if any(token in message["content"] for token in special for message in messages):
        raise BadRow("the text contains a special token of the chat template")
    text = _render(tokenizer, messages)
    for message in messages:
        if message["content"].strip() not in text:
            raise BadRow("the chat template drops or changes a turn")
    return text


def _marked(tokenizer: Any, text: str, spans: Sequence[tuple[int, int]], max_length: int) -> Example:
    """Tokenise a text and mark the tokens inside spans of characters."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"][:max_length], encoded["offset_mapping"][:max_length]
    labels = [
        token if any(_inside(offset, span) for span in spans) else IGNORED
        for token, offset in zip(ids, offsets, strict=True)
    ]
    example = Example(ids, labels, len(encoded["input_ids"]) > max_length)
    if example.answer_tokens == 0:
        raise BadRow("no answer token within max_length" if example.truncated else "no answer token")
    return example


@lru_cache(maxsize=4)
def _special_tokens(tokenizer: Any, template: str) -> list[str]:
    """Return the special tokens that the chat template uses, which in a text would be mistaken for the template's."""
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    ends = {tokenizer.bos_token, tokenizer.eos_token} - {None}
    return sorted(token for token in special if token in template or token in ends)


def _inside(token: tuple[int, int], span: tuple[int, int]) -> bool:
    """Return whether a token is inside a span; some tokenizers give tokens of white space no width."""
    (start, end), (low, high) = token, span
    return low <= start and end <= high and (start < end or low < start)


def _render(tokenizer: Any, messages: list[Message], *, prompt: bool = False) -> str:
    from jinja2 import TemplateError

    try:
        text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
    except (TemplateError, TypeError, ValueError, ArithmeticError, MemoryError) as error:
        raise BadRow(f"the chat template rejects the row: {error}") from None
    return text


def _answer_span(tokenizer: Any, messages: list[Message], turn: int, text: str) -> tuple[int, int]:
    """Return start and end of the answer `turn` in `text`, in characters."""
    through = _render(tokenizer, messages[: turn + 1])
    end = len(through.rstrip())
    if not text.startswith(through[:end]):
        raise BadRow("the chat template rewrites earlier turns, so answers cannot be marked")
    before = _render(tokenizer, messages[:turn], prompt=True) if turn else ""
    if before and through.startswith(before):
        return len(before), end
    content = "1" if messages[turn]["content"].strip().startswith("0") else "0"
    other = _render(tokenizer, [*messages[:turn], {"role": "assistant", "content": content}])
    return len(commonprefix([through, other])), end  # noqa: RUF071
