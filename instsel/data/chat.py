"""Render conversations with a chat template, tokenise them, and mark the answer tokens."""

import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from functools import lru_cache
from typing import Any

from instsel.data.answer_spans import AnswerFinder, Answers
from instsel.data.messages import BadRow, TurnForm, is_trained
from instsel.data.templates import (
    MOST_ADDED,
    MOST_TIMES,
    ChatTemplate,
    check_template,
    template_source,
)
from instsel.data.tokens import TokenisedText, tokenizer_of
from instsel.data.turns import (
    THINK_TAG,
    Dialogue,
    EncodingOptions,
    Turn,
    content_text,
    prepare_turns,
    texts_of,
)
from instsel.errors import InputError

IGNORED = -100
_LONGEST_SPACE = 100
_ROWS = 250
# Characters of an answer, and up to where its last token may reach.
_Span = tuple[int, int, int]


@dataclass(frozen=True)
class Example:
    """Token ids and labels of a conversation; a label equals its token inside answers and is -100 elsewhere.

    `length` is the number of tokens before it was truncated, `dropped_reasoning` that of turns whose reasoning the
    template leaves out.
    """

    input_ids: list[int]
    labels: list[int]
    truncated: bool
    dropped_reasoning: int = 0
    length: int = field(default=0, compare=False)

    @property
    def answer_tokens(self) -> int:
        """Number of tokens in the loss; the first token of a text is not predicted."""
        return len(self.labels) - self.labels.count(IGNORED) - (self.labels[:1] not in ([], [IGNORED]))


@dataclass(slots=True)
class _Prepared:
    """A conversation as it goes to the template; `labelled` are the turns to label, `size` its characters."""

    turns: list[Turn]
    labelled: frozenset[int]
    tools: list[dict[str, Any]] | None
    size: int
    finder: AnswerFinder


@dataclass(slots=True)
class _Rendered:
    """A rendered conversation."""

    prepared: _Prepared
    text: str
    answers: Answers


def prompt_text(messages: Sequence[Turn]) -> str:
    """Return the contents of all messages before the last assistant turn, a line break between two, without roles.

    Roles and template marks are the same in all rows, and no text that encoders were trained on has them.
    """
    turns = [turn for turn, message in enumerate(messages) if message["role"] == "assistant"]
    contents = [content_text(message) for message in messages[: turns[-1]]]
    return "\n".join(content for content in contents if content is not None)


def check_tokenizer(tokenizer: Any) -> None:
    """Check that answers can be marked with a tokenizer.

    Raises:
        InputError: it has no chat template, several without a default, or one that cannot be used, or does not give
            the character offsets of tokens.
    """
    templates = tokenizer.chat_template
    if not templates:
        raise InputError("the tokenizer has no chat template; set model.chat_template to the path of a Jinja file")
    if not tokenizer.is_fast:
        raise InputError("the tokenizer has no fast version, which answer marking needs; use a model that has one")
    if isinstance(templates, Mapping) and "default" not in templates:
        raise InputError(
            f"the tokenizer has several chat templates ({', '.join(sorted(templates))}) and none is called default; "
            "set model.chat_template to the path of a Jinja file"
        )
    problem = check_template(tokenizer)
    if problem is not None:
        raise InputError(f"the tokenizer's chat template: {problem}; set model.chat_template to the path of another")


def lacks_end_mark(tokenizer: Any, today: date | None = None) -> bool:
    """Return whether the template writes no token behind the last answer, so that a model does not learn to stop."""
    return not _finder(tokenizer, template_source(tokenizer), today or date.today()).frame.has_end_token  # noqa: DTZ011


def turn_form(tokenizer: Any, tools: Any = None) -> TurnForm:
    """Return in which form the chat template wants calls, and what tools give back."""
    finder = _finder(tokenizer, template_source(tokenizer, tools), date.today())  # noqa: DTZ011
    return finder.frame.form


def encode(
    tokenizer: Any,
    messages: Sequence[Turn],
    max_length: int | None,
    *,
    tools: list[dict[str, Any]] | None = None,
    trained: Sequence[bool | None] | None = None,
    options: EncodingOptions | None = None,
) -> Example:
    """Render and tokenise a conversation, and mark its answer tokens.

    The tokens are those of `apply_chat_template`. Answer tokens are what the template writes of assistant turns, with
    reasoning and tool calls, up to and including the mark that ends the turn. A token that reaches over the beginning
    of an answer belongs to it. A text longer than `max_length` tokens is truncated at its end.

    Args:
        tokenizer: a fast Hugging Face tokenizer with a chat template.
        messages: turns of the conversation, with every key that the template may read.
        max_length: maximum length in tokens, in place of that in `options`.
        tools: JSON schemas of the tools that the assistant may call.
        trained: for each turn whether it is marked as one to train on, None for a turn without a mark; by default what
            the turns' own marks say (`weight`, `loss`, `train`, ...).
        options: what to label; all answers by default.

    Raises:
        BadRow: the template rejects the conversation, or loses or changes what a turn says, the text of a turn contains
            a special token, which could end the turn and start another, or there is no answer token to label.
    """
    options = replace(options or EncodingOptions(), max_length=max_length)
    if trained is None:
        trained = list(map(is_trained, messages))
    (example,) = encode_batch(tokenizer, [Dialogue(messages, tools, trained)], options)
    if isinstance(example, BadRow):
        raise example
    return example


def encode_batch(tokenizer: Any, dialogues: Sequence[Dialogue], options: EncodingOptions) -> list[Example | BadRow]:
    """Encode many conversations, as `encode` does one, in a fraction of the time.

    Args:
        tokenizer: a fast Hugging Face tokenizer with a chat template.
        dialogues: the conversations.
        options: maximum length, and what to label.

    Returns:
        For each conversation its example, or the reason why it has none.
    """
    examples: list[Example | BadRow] = []
    with paused_collector():
        for start in range(0, len(dialogues), _ROWS):
            examples += _encode(tokenizer, dialogues[start : start + _ROWS], options)
    return examples


@contextmanager
def paused_collector() -> Iterator[None]:
    """Pause Python's garbage collector, which would look at all rows of a batch again and again."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def encode_answer(
    tokenizer: Any,
    messages: Sequence[Turn],
    max_length: int | None,
    *,
    tools: list[dict[str, Any]] | None = None,
    options: EncodingOptions | None = None,
) -> Example:
    """Render and tokenise a conversation, and mark the words of its last turn alone, without its end-of-turn token.

    Args:
        tokenizer: a fast Hugging Face tokenizer with a chat template.
        messages: turns of the conversation; the last one is the assistant's.
        max_length: maximum length in tokens, in place of that in `options`; a longer text is truncated at its end.
        tools: JSON schemas of the tools that the assistant may call.
        options: how system turns and reasoning are written.

    Raises:
        BadRow: as `encode`, or the last turn is not the assistant's.
    """
    if not messages or messages[-1]["role"] != "assistant":
        raise BadRow("the last turn is not the assistant's")
    limit = max_length or (options.max_length if options else None)
    options = replace(options or EncodingOptions(), max_length=limit, train_on="last")
    (row,) = _render(tokenizer, [Dialogue(messages, tools)], options)
    if isinstance(row, BadRow):
        raise row
    (text,) = tokenizer_of(tokenizer).encode([row.text])
    start, end = row.answers.words[max(row.prepared.labelled)]
    return _example(text, [_with_limit(row.text, start, end)], limit, row.answers.dropped_reasoning)


def _encode(tokenizer: Any, dialogues: Sequence[Dialogue], options: EncodingOptions) -> list[Example | BadRow]:
    rendered = _render(tokenizer, dialogues, options)
    texts = iter(tokenizer_of(tokenizer).encode([row.text for row in rendered if isinstance(row, _Rendered)]))
    examples: list[Example | BadRow] = []
    for row in rendered:
        if isinstance(row, BadRow):
            examples.append(row)
            continue
        try:
            examples.append(_label(tokenizer, row, next(texts), options))
        except BadRow as error:
            examples.append(error)
    return examples


def _render(tokenizer: Any, dialogues: Sequence[Dialogue], options: EncodingOptions) -> list[_Rendered | BadRow]:
    """Render conversations, and find their answers."""
    today = options.today or date.today()  # noqa: DTZ011
    rows: list[_Prepared | BadRow] = []
    for dialogue in dialogues:
        try:
            rows.append(_prepare(tokenizer, dialogue, options, today))
        except BadRow as error:
            rows.append(error)
    # Those without tools in one call of transformers: most of its time goes into the call.
    plain = [row for row in rows if isinstance(row, _Prepared) and row.tools is None]
    texts = iter(plain[0].finder.template.render([row.turns for row in plain]) if plain else ())
    results: list[_Rendered | BadRow] = []
    for row in rows:
        if isinstance(row, BadRow):
            results.append(row)
            continue
        text = next(texts) if row.tools is None else row.finder.template.render([row.turns], row.tools)[0]
        try:
            results.append(_find_answers(row, text))
        except BadRow as error:
            results.append(error)
    return results


def _prepare(tokenizer: Any, dialogue: Dialogue, options: EncodingOptions, today: date) -> _Prepared:
    """Apply the options to a conversation, and check that no text in it would be taken for the template's own."""
    turns, labelled = prepare_turns(dialogue, options)
    source = template_source(tokenizer, dialogue.tools)
    text = _all_text(turns, dialogue.tools)
    tokens, starts = _special_tokens(tokenizer, source)
    if any(start in text for start in starts) and any(token in text for token in tokens):
        first = next(token for token in tokens if token in text)
        raise BadRow(f"the text contains a special token of the chat template: {first}")
    return _Prepared(turns, labelled, dialogue.tools, len(text), _finder(tokenizer, source, today))


def _all_text(turns: Sequence[Turn], tools: Any) -> str:
    """Return all texts of a row as one, with breaks that no token holds."""
    contents = [turn["content"] for turn in turns if len(turn) == 2 and isinstance(turn.get("content"), str)]
    if tools is None and len(contents) == len(turns):
        return "\0".join(contents)
    return "\0".join(texts_of([turns, tools]))


def _find_answers(row: _Prepared, text: str | BadRow) -> _Rendered:
    if isinstance(text, BadRow):
        raise text
    if len(text) > MOST_TIMES * row.size + MOST_ADDED:
        raise BadRow(f"the chat template writes {len(text):,} characters for a row of {row.size:,}")
    return _Rendered(row, text, row.finder.find(row.turns, row.tools, text))


def _label(tokenizer: Any, row: _Rendered, text: TokenisedText, options: EncodingOptions) -> Example:
    """Label the answers of a conversation."""
    answers, prepared = row.answers, row.prepared
    labelled = [span for turn in sorted(prepared.labelled) for span in answers.spans[turn]]
    spans = [(span.spoken if options.reasoning == "mask" else span.start, span.end) for span in labelled]
    marked = prepared.finder.template.generations(prepared.turns, prepared.tools, row.text)
    if marked is not None:
        spans = [(max(span[0], other[0]), min(span[1], other[1])) for span in spans for other in marked]
    last = len(prepared.turns) - 1
    appended = None
    if options.append_end and last in prepared.labelled and not prepared.finder.frame.has_end_token:
        appended = tokenizer.eos_token_id
    limited = [_with_limit(row.text, start, end) for start, end in spans]
    return _example(text, limited, options.max_length, answers.dropped_reasoning, appended)


def _example(
    text: TokenisedText, spans: Iterable[_Span], max_length: int | None, dropped: int, appended: int | None = None
) -> Example:
    """Label the tokens of a text that reach into spans of characters, and one that is appended."""
    ids = text.ids
    labels = [IGNORED] * len(ids)
    for start, end, limit in spans:
        if start < end:
            first, last = text.tokens_of(start, end, limit)
            labels[first:last] = ids[first:last]
    if appended is not None:
        ids, labels = [*ids, appended], [*labels, appended]
    truncated = max_length is not None and len(ids) > max_length
    length = len(ids)
    if truncated:
        ids, labels = ids[:max_length], labels[:max_length]
    example = Example(ids, labels, truncated, dropped, length)
    if example.answer_tokens == 0:
        raise BadRow("no answer token within max_length" if truncated else "no answer token")
    return example


def _with_limit(text: str, start: int, end: int) -> _Span:
    """Let the last token of an answer reach into white space behind it, as one of a dot and a line break does."""
    behind = text[end : end + _LONGEST_SPACE]
    return start, end, end + len(behind) - len(behind.lstrip())


@lru_cache(maxsize=8)
def _finder(tokenizer: Any, source: str, today: date) -> AnswerFinder:
    return AnswerFinder(ChatTemplate(tokenizer, source, today))


@lru_cache(maxsize=8)
def _special_tokens(tokenizer: Any, template: str) -> tuple[list[str], list[str]]:
    """Return the special tokens that the chat template uses, which in a text would be mistaken for the template's.

    And the characters that they start with, most often one.
    """
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    ends = {tokenizer.bos_token, tokenizer.eos_token}
    used = {token for token in special if token in template or token in ends}
    tokens = sorted(token for token in used if not THINK_TAG.fullmatch(token))
    return tokens, sorted({token[0] for token in tokens})
