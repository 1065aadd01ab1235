"""Tags from a language model behind an OpenAI-compatible endpoint."""

import json
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from instsel import arrays
from instsel.errors import InputError, StudyError
from instsel.mixture.tagging import Choice, Completion, UnusableAnswer, answer_format, clean_tag, question, read_answer

URL, MODEL, KEY = (f"mixture.categories.{name}" for name in ("url", "model", "key_variable"))
ANSWER_TOKENS = 1_024
TAG_TOKENS = 64
MESSAGE_LENGTH = 300
HARMLESS = "What is 2 + 2?"
# Statuses of a request that the endpoint does not take, for one of its prompts or for all that it asks for.
REJECTED_STATUSES = (400, 413, 422)


@dataclass(frozen=True)
class Tag:
    """The tag of a row, or why it has none.

    Attributes:
        tag: clean, or one of the labels as they were given; None if there is none.
        reason: why there is none; None if there is one.
    """

    tag: str | None
    reason: str | None = None


class _RefusedRequest(Exception):
    """The endpoint has no chat completion for a request.

    Attributes:
        reason: of a fixed set, for a row.
        said: what the endpoint says, for an error.
    """

    def __init__(self, reason: str, said: str) -> None:
        super().__init__(f"{reason}: {said}")
        self.reason, self.said = reason, said


class Tagger:
    """A client of `/chat/completions` that asks about several rows at a time. Threads may share one.

    Answers are asked for by a JSON schema. An endpoint that takes no schema is asked without one, and answers are read
    with the same care either way: many servers take a schema and do not keep to it.
    """

    def __init__(  # noqa: PLR0913
        self, url: str, model: str,
        *, key: str | None = None, key_variable: str | None = None, labels: Sequence[str] | None = None,
        rows_per_request: int = 8, timeout: float = 60.0, attempts: int = 4,
    ) -> None:  # fmt: skip
        """Make a client; nothing is sent.

        Args:
            url: what comes before `/chat/completions`, as "http://127.0.0.1:8000/v1".
            model: the model's name at the endpoint.
            key: sent as bearer token; None for an endpoint that wants none. No key of the environment is taken.
            key_variable: the environment variable that the key is from, for messages.
            labels: the only tags allowed; None for free tags.
            rows_per_request: rows asked about at a time.
            timeout: seconds without a sign of the endpoint after which a request has failed.
            attempts: times that a request is sent while the endpoint is busy, broken, silent or not there. Between
                them it waits as long as Retry-After says, if that is no more than two minutes, else 0.5 s, 1 s, 2 s,
                4 s, and 8 s from there on, less up to a quarter at random. It does not wait for more than two minutes.

        Raises:
            InputError: the openai package is missing, the URL is none or has a password, the key cannot be sent, or
                labels are empty or the same but for case.
            ValueError: a number is out of range.
        """
        try:
            import openai
        except ImportError as error:
            raise InputError(
                f"{URL} needs the openai package; install it: python -m pip install 'instsel[endpoint]'"
            ) from error
        self._openai: Any = openai
        self._url, self._model, self._key, self._timeout = _checked_url(url), model, key, timeout
        self._key_name = f"the key in {key_variable}, {KEY}," if key_variable else f"the key of {KEY}"
        self._labels = None if labels is None else _by_clean_name(labels)
        self._rows = arrays.whole_number("rows_per_request", rows_per_request, least=1)
        self._attempts = arrays.whole_number("attempts", attempts, least=1)
        if not timeout > 0:
            raise ValueError(f"timeout must be above 0, got {timeout}")
        if key is not None and not (key.isascii() and key.isprintable() and key == key.strip() and key):
            raise InputError(
                f"{self._key_name} has a space or a line break at an end, is empty or no plain text; correct it"
            )
        self._client = openai.OpenAI(
            base_url=url, api_key="none" if key is None else key, timeout=timeout, max_retries=self._attempts - 1
        )
        self._has_answered, self._with_schema, self._checking = False, True, threading.Lock()

    def tag(self, prompts: Sequence[str]) -> list[Tag]:
        """Tag rows.

        Where an answer about several rows is of no use for some, each of these is asked about again by itself.

        Args:
            prompts: texts of rows; long ones are cut as in `answers.question`.

        Returns:
            One tag a prompt. A row has none if it is empty, or if the answer about it alone is of no use: no JSON
            object, none of the labels, cut off, a refusal, or a request that the endpoint did not take. Reasons
            are of a fixed set, without words of the row or the answer.

        Raises:
            InputError: the endpoint is not there, refuses the key, or takes no request at all.
            StudyError: it is still busy, broken or silent after `attempts`.
        """
        tags = [Tag(None, "the prompt is empty")] * len(prompts)
        filled = [index for index, prompt in enumerate(prompts) if prompt.strip()]
        for first in range(0, len(filled), self._rows):
            indices = filled[first : first + self._rows]
            for index, tag in zip(indices, self._ask([prompts[index] for index in indices]), strict=True):
                again = tag.tag is None and len(indices) > 1
                tags[index] = self._ask([prompts[index]])[0] if again else tag
        return tags

    def _ask(self, prompts: list[str]) -> list[Tag]:
        """Tags of one request."""
        with_schema = self._with_schema
        try:
            choice = self._send(prompts, with_schema=with_schema)
            return [self._judged(text) for text in read_answer(choice, len(prompts))]
        except UnusableAnswer as error:
            return [Tag(None, str(error))] * len(prompts)
        except _RefusedRequest as error:
            self._check_endpoint()
            if with_schema and not self._with_schema:
                return self._ask(prompts)
            return [Tag(None, error.reason)] * len(prompts)

    def _judged(self, text: str) -> Tag:
        name = clean_tag(text)
        if not name:
            return Tag(None, "the answer is an empty tag")
        if self._labels is None:
            return Tag(name)
        return Tag(self._labels[name]) if name in self._labels else Tag(None, "the answer is none of the labels")

    def _check_endpoint(self) -> None:
        """Tell an endpoint that takes no request, or no schema, from one that does not take this request."""
        with self._checking:
            if self._has_answered:
                return
            with suppress(_RefusedRequest):
                self._send([HARMLESS], with_schema=True)
                return
            try:
                self._send([HARMLESS], with_schema=False)
            except _RefusedRequest as error:
                raise InputError(
                    f"{URL}, {MODEL}: {self._url} takes no request for {self._model} ({error.said}); correct them"
                ) from None
            self._with_schema = False

    def _send(self, prompts: list[str], *, with_schema: bool) -> Choice:
        labels = None if self._labels is None else list(self._labels.values())
        messages: Any = question(prompts, labels)
        response_format: Any = answer_format(len(prompts), labels) if with_schema else self._openai.omit
        try:
            reply = self._client.chat.completions.create(
                model=self._model, messages=messages, temperature=0, response_format=response_format,
                max_tokens=ANSWER_TOKENS + TAG_TOKENS * len(prompts),
            )  # fmt: skip
            completion = Completion.model_validate(reply, from_attributes=True)
        # Without the cause, here and below: it holds the request, and with it the key.
        except self._openai.APIStatusError as error:
            raise self._of_status(error) from None
        except self._openai.APIConnectionError as error:
            raise self._of_connection(error) from None
        except (json.JSONDecodeError, UnicodeDecodeError, ValidationError):
            said = "its reply is no chat completion"
            raise _RefusedRequest("the endpoint's reply is no chat completion", said) from None
        self._has_answered = True
        return completion.choices[0]

    def _of_status(self, error: Any) -> Exception:
        status, said = error.status_code, f"{error.status_code}: {self._redacted(error)}"
        if status in (401, 403):
            if self._key is None:
                return InputError(f"{KEY}: {self._url} wants a key ({said}); name the variable that holds it")
            return InputError(f"{self._url} does not take {self._key_name} ({said}); correct it")
        if status in REJECTED_STATUSES:
            return _RefusedRequest(f"the endpoint did not take the request ({status})", said)
        if status in (402, 408, 409, 429) or status >= 500:
            after = error.response.headers.get("retry-after")
            wait = f"; it asks for a wait of {after[:40]}" if after else ""
            return StudyError(
                f"{self._url} failed, with {self._attempts} attempts at most ({said}){wait}; run again when it works, "
                "what is tagged is kept"
            )
        return InputError(f"{URL}, {MODEL}: {self._url} with model {self._model} is not there ({said}); correct them")

    def _of_connection(self, error: Any) -> Exception:
        if any(isinstance(cause, (ConnectionRefusedError, socket.gaierror, ssl.SSLError)) for cause in _causes(error)):
            return InputError(f"{URL}: no connection to {self._url} ({_root(error)}); correct it or start the endpoint")
        if isinstance(error, self._openai.APITimeoutError):
            return StudyError(
                f"{self._url} was silent for {self._timeout:g} s, {self._attempts} times; run again when it works, or "
                "with a longer timeout if it is slow; what is tagged is kept"
            )
        return StudyError(f"the connection to {self._url} broke off; run again, what is tagged is kept")

    def _redacted(self, error: Any) -> str:
        """What the endpoint says, without the key."""
        body = error.body
        said = str(body["message"]) if isinstance(body, dict) and body.get("message") else error.message
        if self._key:
            said = said.replace(self._key, "***")
        return " ".join(said.split())[:MESSAGE_LENGTH]


def _checked_url(url: str) -> str:
    """The URL, if it can be asked and shown."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise InputError(f"{URL} is no address of an endpoint; it looks like http://127.0.0.1:8000/v1")
    if parts.username is not None or parts.query:
        raise InputError(f"{URL} has a password or a query; an endpoint's key belongs into an environment variable")
    return url


def _by_clean_name(labels: Sequence[str]) -> dict[str, str]:
    named = {clean_tag(label): label for label in labels}
    if not named or "" in named or len(named) != len(labels):
        raise InputError(
            f"labels {list(labels)!r} have to be one or more names that differ by more than case and punctuation"
        )
    return named


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what it came from, the first cause last."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _root(error: BaseException) -> str:
    *_, last = _causes(error)
    return str(last)
