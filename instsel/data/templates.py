"""Render chat templates: with a fixed date, within bounds, and with the places of `{% generation %}`."""

import json
import re
import resource
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

from instsel.data.messages import BadRow
from instsel.data.turns import Turn
from instsel.errors import InputError

SECONDS = 10
MEMORY = 1 << 30
# What a template may add to a row: system turn, tools, dates. Templates of today write less than 10,000 characters.
MOST_ADDED = 1 << 20
MOST_TIMES = 16
_LONGEST_REASON = 300
_LIMITS = threading.RLock()
_DATE = re.compile(r"\bstrftime_now\b")
_DIRECTIVES = [f"%{flag}{letter}" for letter in "aAbBcCdDeFgGhHIjklmMnprRSsTuUVwWxXyYzZ" for flag in ("", "-")]
# As transformers has it in the sandbox, but of a fixed day: arguments of a template cannot be functions.
_FIXED_DATE = (
    "{%- macro strftime_now(format) -%}{%- set day = namespace(text=format) -%}"
    "{%- for directive, text in date_directives.items() -%}{%- set day.text = day.text.replace(directive, text) -%}"
    "{%- endfor -%}{{- day.text -}}{%- endmacro %}\n"
)
_GENERATION = re.compile(r"\{%-?\s*generation\s*(-?)%\}")
_END_GENERATION = re.compile(r"\{%(-?)\s*endgeneration\s*(-?)%\}")
_OPEN, _CLOSE = "Zq7xkOPEN7qZ", "Zq7xkCLOSE7qZ"


class TooSlowError(Exception):
    """A template takes longer than the limit."""


class ChatTemplate:
    """A chat template of a tokenizer.

    Args:
        tokenizer: Hugging Face tokenizer whose tokens the template writes.
        source: the template's text.
        today: the date that it writes.
    """

    def __init__(self, tokenizer: Any, source: str, today: date) -> None:
        self.tokenizer, self.source = tokenizer, source
        self._pinned, self._variables = source, {}
        if uses_date(source):
            self._pinned = _FIXED_DATE + source
            self._variables = {"date_directives": _directives(today)}
        self._tracked = _with_generation_signs(self._pinned)

    def render(
        self, conversations: Sequence[Sequence[Turn]], tools: Any = None, *, prompt: bool = False
    ) -> list[str | BadRow]:
        """Render conversations, as `apply_chat_template` does; a BadRow stands for one that cannot be."""
        try:
            return list(self._apply(self._pinned, conversations, tools, prompt=prompt))
        except Exception as error:
            # A template runs code of its own, which may raise anything.
            if len(conversations) == 1:
                return [_rejection(error)]
        return [result for turns in conversations for result in self.render([turns], tools, prompt=prompt)]

    def generations(self, turns: Sequence[Turn], tools: Any, text: str) -> list[tuple[int, int]] | None:
        """Return the characters of a rendered text that the template marks with `{% generation %}`.

        None if it marks none, or if the text is not the same when the marks are written out.
        """
        if self._tracked is None:
            return None
        try:
            (signed,) = self._apply(self._tracked, [turns], tools)
        except Exception:
            return None
        spans, plain, start = [], "", 0
        for part in re.split(f"({_OPEN}|{_CLOSE})", signed):
            if part == _OPEN:
                start = len(plain)
            elif part == _CLOSE:
                spans.append((start, len(plain)))
            else:
                plain += part
        return spans if plain == text else None

    def _apply(
        self, source: str, conversations: Sequence[Sequence[Turn]], tools: Any, *, prompt: bool = False
    ) -> list[str]:
        with bounded(SECONDS, MEMORY):
            texts: list[str] = self.tokenizer.apply_chat_template(
                list(conversations),
                tools=tools,
                chat_template=source,
                tokenize=False,
                add_generation_prompt=prompt,
                **self._variables,
            )
        return texts


def template_source(tokenizer: Any, tools: Any = None) -> str:
    """Return the text of the chat template that transformers uses for a row."""
    source: str = tokenizer.get_chat_template(None, tools)
    return source


def uses_date(source: str) -> bool:
    """Return whether a chat template writes the current date, so that its tokens depend on the day."""
    return _DATE.search(source) is not None


def check_template(tokenizer: Any) -> str | None:
    """Compile the tokenizer's chat templates and render a question with each, within bounds of time and memory.

    A template may refuse the question, by `raise_exception`; that is found row by row.

    Returns:
        What is wrong with a template, or None.
    """
    from jinja2 import TemplateSyntaxError

    templates = tokenizer.chat_template
    for name, source in templates.items() if isinstance(templates, Mapping) else [("", templates)]:
        which = f"its template {name} " if name else "it "
        if "messages" not in source:
            return f"{which}does not read `messages`, so it is no chat template"
        try:
            with bounded(SECONDS, MEMORY):
                text = tokenizer.apply_chat_template(
                    [{"role": "user", "content": "Why?"}], chat_template=source, tokenize=False
                )
        except TemplateSyntaxError as error:
            return f"{which}has an error in line {error.lineno}: {error.message}"
        except TooSlowError:
            return f"{which}takes more than {SECONDS} s to write one question"
        except MemoryError:
            return f"{which}takes more than {MEMORY >> 30} GiB to write one question"
        except Exception:  # noqa: S112 (it may want other turns than a question)
            continue
        if len(text) > MOST_ADDED:
            return f"{which}writes {len(text):,} characters for one question"
    return None


def read_template(path: Path) -> str | dict[str, str]:
    """Read a chat template from a Jinja file, or from the JSON of a tokenizer or a processor.

    Returns:
        The template, or several by name, one of them called default.

    Raises:
        InputError: the file is none of these.
    """
    key = f"model.chat_template: {path}"
    if path.is_dir():
        raise InputError(f"{key} is a folder; name a file in it, such as {path / 'chat_template.jinja'}")
    if not path.is_file():
        raise InputError(f"model.chat_template: file {path} does not exist; correct the path")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{key} could not be read as text: {error}; name a Jinja file") from None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    template = value.get("chat_template") if isinstance(value, dict) else value
    if isinstance(template, list) and all(isinstance(item, dict) for item in template):
        template = {item.get("name"): item.get("template") for item in template}
    if isinstance(template, str):
        return template
    if not isinstance(template, dict) or not template or not all(map(_is_text, (*template, *template.values()))):
        raise InputError(f"{key} is JSON without a chat template; name a Jinja file, or JSON with `chat_template`")
    if len(template) > 1 and "default" not in template:
        names = ", ".join(sorted(template))
        raise InputError(f"{key} has several templates ({names}) and none is called default; write one to a file")
    # Of several, transformers takes the one for tools where a row has some.
    return template if len(template) > 1 else next(iter(template.values()))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


@contextmanager
def bounded(seconds: float, memory: int) -> Iterator[None]:
    """Bound what a template may take, since neither Jinja's sandbox nor transformers does.

    Raises:
        TooSlowError: after `seconds` of the process's CPU, whatever else the machine does; in the main thread only.
        MemoryError: where the process wants `memory` bytes more than it has, without what it shares with others.
    """
    # Limits are the process's: a second thread would take those of the first for the ones to go back to.
    with _LIMITS, _memory_limit(memory):
        if threading.current_thread() is threading.main_thread():
            with _cpu_limit(seconds):
                yield
        else:
            yield


@contextmanager
def _memory_limit(memory: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5])
    limit = pages * resource.getpagesize() + memory
    resource.setrlimit(resource.RLIMIT_DATA, (limit if soft == resource.RLIM_INFINITY else min(limit, soft), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


@contextmanager
def _cpu_limit(seconds: float) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TooSlowError(f"it takes more than {seconds:g} s")

    earlier = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, earlier if earlier is not None else signal.SIG_DFL)


def _rejection(error: Exception) -> BadRow:
    lines = str(error).strip().splitlines()
    return BadRow(f"the chat template rejects the row: {lines[0][:_LONGEST_REASON] if lines else type(error).__name__}")


def _directives(today: date) -> dict[str, str]:
    return {directive: today.strftime(directive) for directive in _DIRECTIVES}


def _with_generation_signs(source: str) -> str | None:
    """Write signs around what a template marks with `{% generation %}`; None if it marks nothing.

    The signs stand in blocks, not in the text itself: the line break after a block tag is not part of the text.
    """
    signed, count = _GENERATION.subn(
        lambda tag: tag.group().replace("-%}", "%}") + f"{{% if true %}}{_OPEN}{{% endif {tag.group(1)}%}}", source
    )
    if not count:
        return None
    return _END_GENERATION.sub(
        lambda tag: f"{{%{tag.group(1)} if true %}}{_CLOSE}{{% endif %}}{{% endgeneration {tag.group(2)}%}}", signed
    )
