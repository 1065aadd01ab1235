"""A small OpenAI-compatible endpoint, whose replies a test writes."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


@dataclass
class Reply:
    """What is sent, after `delay` seconds."""

    body: str | bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0


class Endpoint:
    """Answers the n-th request with the n-th reply that a test wrote, further ones with the last.

    Attributes:
        url: where it is.
        requests: the headers and payloads of all requests, in order.
    """

    def __init__(self, url: str) -> None:
        self.url, self.requests = url, []
        self._replies: list[Callable[[list[str]], Reply]] = []
        self._lock = threading.Lock()

    def send(self, body: str | bytes, **reply: Any) -> None:
        """Write a reply with a body of its own."""
        self._replies.append(lambda prompts: Reply(body, **reply))

    def say(self, content: str | None, *, finish: str = "stop", **message: Any) -> None:
        """Write a reply with a model's answer."""
        self._replies.append(lambda prompts: Reply(_completion(content, finish, message)))

    def tag(self, tag: Callable[[str], str] = str.upper, *, around: str = "{}", delay: float = 0.0) -> None:
        """Write a reply with `tag` of each prompt, in place of the braces in `around`."""

        def reply(prompts: list[str]) -> Reply:
            answer = json.dumps({str(number): tag(prompt) for number, prompt in enumerate(prompts, 1)})
            return Reply(_completion(around.replace("{}", answer), "stop", {}), delay=delay)

        self._replies.append(reply)

    def prompts(self, number: int) -> list[str]:
        """Prompts of a request, as the model reads them."""
        numbered = json.loads(self.requests[number]["messages"][1]["content"])
        assert list(numbered) == [str(place) for place in range(1, len(numbered) + 1)]
        return list(numbered.values())

    def reply(self, request: dict[str, Any]) -> Reply:
        with self._lock:
            self.requests.append(request)
            number = len(self.requests)
        return self._replies[min(number, len(self._replies)) - 1](self.prompts(number - 1))


def _completion(content: str | None, finish: str, message: dict[str, Any]) -> str:
    choice = {"index": 0, "message": {"role": "assistant", "content": content, **message}, "finish_reason": finish}
    return json.dumps({"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]})


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    """A running endpoint."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            payload = json.loads(self.rfile.read(int(self.headers["content-length"])))
            headers = {name.lower(): value for name, value in self.headers.items()}
            reply = made.reply({"path": self.path, "headers": headers, **payload})
            time.sleep(reply.delay)
            try:
                self.send_response(reply.status)
                for name, value in {"content-type": "application/json", **reply.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(reply.body if isinstance(reply.body, bytes) else reply.body.encode())
            except (BrokenPipeError, ConnectionResetError):
                pass  # The client waited no longer.

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made = Endpoint(f"http://127.0.0.1:{server.server_port}/v1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield made
    server.shutdown()
    server.server_close()
    thread.join()
