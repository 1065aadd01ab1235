"""A conversation as the model sees it: the chat template's text, its tokens, and which of them are answers."""

from dataclasses import dataclass
from functools import lru_cache
from os.path import commonprefix
from typing import Any

from instsel.data.formats import BadRow
from instsel.errors import InputError

IGNORED = -100


@dataclass(frozen=True)
class Example:
    """Token ids and labels of one conversation; a label is its token inside an answer and -100 elsewhere."""

    input_ids: list[int]
    labels: list[int]
    truncated: bool

    @property
    def answer_tokens(self) -> int:
        """Tokens the loss is taken over: the first token of a text has no prediction."""
        return sum(label != IGNORED for label in self.labels[1:])


def check_tokenizer(tokenizer: Any) -> None:
    """Refuse a tokenizer that cannot tell answers from prompts.

    Raises:
        InputError: it has no chat template, or cannot say where in the text a token stands.
    """
    if not tokenizer.chat_template:
        raise InputError("the tokenizer has no chat template; set model.chat_template to the path of a Jinja file")
    if not tokenizer.is_fast:
        raise InputError("the tokenizer has no fast version, which answer marking needs; use a model that has one")


def encode(tokenizer: Any, messages: list[dict[str, str]], max_length: int) -> Example:
    """Render, tokenise and mark a conversation.

    Answer tokens are those of assistant turns: what the template writes after the generation prompt, through the
    end-of-turn mark, without the white space after it; where a turn does not follow that prompt, as the first one of a
    conversation, they start with its content. A text longer than `max_length` tokens loses its end.

    Args:
        tokenizer: a fast Hugging Face tokenizer with a chat template.
        messages: turns of {"role", "content"}.
        max_length: longest example in tokens.

    Raises:
        BadRow: the template refuses or drops turns, a turn's text holds a mark that would end it and begin another, or
            no answer token is left after cutting.
    """
    marks = _marks(tokenizer, tokenizer.get_chat_template())
    if any(mark in message["content"] for mark in marks for message in messages):
        raise BadRow("a mark of the chat template stands in the text")
    text = _render(tokenizer, messages)
    for message in messages:
        if message["content"].strip() not in text:
            raise BadRow("the chat template drops or changes a turn")
    spans = [
        _answer_span(tokenizer, messages, turn, text) for turn, m in enumerate(messages) if m["role"] == "assistant"
    ]
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"][:max_length], encoded["offset_mapping"][:max_length]
    labels = [
        token if any(_inside(place, span) for span in spans) else IGNORED
        for token, place in zip(ids, offsets, strict=True)
    ]
    example = Example(ids, labels, len(encoded["input_ids"]) > max_length)
    if example.answer_tokens == 0:
        raise BadRow("no answer token within max_length" if example.truncated else "no answer token")
    return example


@lru_cache(maxsize=4)
def _marks(tokenizer: Any, template: str) -> list[str]:
    """Special tokens that the chat template writes itself: in a text they would be read as its own."""
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    ends = {tokenizer.bos_token, tokenizer.eos_token} - {None}
    return sorted(token for token in special if token in template or token in ends)


def _inside(token: tuple[int, int], span: tuple[int, int]) -> bool:
    """Whether a token's characters lie in a span; tokenizers that trim white space give tokens of it no width."""
    (start, end), (low, high) = token, span
    return low <= start and end <= high and (start < end or low < start)


def _render(tokenizer: Any, messages: list[dict[str, str]], *, prompt: bool = False) -> str:
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
    except (TemplateError, TypeError, ValueError, ArithmeticError, MemoryError) as error:
        raise BadRow(f"the chat template refuses the row: {error}") from None


def _answer_span(tokenizer: Any, messages: list[dict[str, str]], turn: int, text: str) -> tuple[int, int]:
    """Characters of `text` that answer `turn` takes up."""
    through = _render(tokenizer, messages[: turn + 1])
    end = len(through.rstrip())
    if not text.startswith(through[:end]):
        raise BadRow("the chat template rewrites earlier turns, so answers cannot be marked")
    before = _render(tokenizer, messages[:turn], prompt=True) if turn else ""
    if before and through.startswith(before):
        return len(before), end
    content = "1" if messages[turn]["content"].strip().startswith("0") else "0"
    other = _render(tokenizer, [*messages[:turn], {"role": "assistant", "content": content}])
    return len(commonprefix([through, other])), end
