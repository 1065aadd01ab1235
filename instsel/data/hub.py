"""Datasets of the Hugging Face hub as streams of rows, and errors that say what is wrong with their names."""

import re
from collections.abc import Iterator
from typing import Any

from instsel.data.tables import dump
from instsel.errors import InputError

HUB = "hf:"
NAME = re.compile(r"[\w.-]+(?:/[\w.-]+)?")
SECONDS = 10
DOWNLOAD = (
    "run `hf download {name} --repo-type dataset --local-dir FOLDER` where there is a network, and give the folder"
)


def hub_name(uri: str) -> str:
    """Return the name of a dataset of the hub: what follows `hf:`.

    Raises:
        InputError: it is no name; the message says how it is written.
    """
    name = uri.removeprefix(HUB).rstrip("/")
    if NAME.fullmatch(name):
        return name
    parts = name.removeprefix("//").removeprefix("datasets/").split("/")
    written = "/".join(parts[:2]) if len(parts) > 1 and all(parts[:2]) else "OWNER/NAME"
    raise InputError(f"{uri} is no name of a dataset; write {HUB}{written}, and `config` and `split` beside it")


def open_hub(name: str, split: str, config: str | None, revision: str | None) -> Any:
    """Open a dataset of the hub as a stream.

    Args:
        name: OWNER/NAME.
        split: of the dataset.
        config: one of its configurations, where it has several.
        revision: branch, tag or commit.

    Raises:
        InputError: there is no such dataset, configuration or split, or the hub cannot be reached.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    given = {key: value for key, value in (("name", config), ("revision", revision)) if value is not None}
    try:
        return load_dataset(name, split=split, streaming=True, **given)
    except (DatasetsError, OSError, RuntimeError, ValueError) as error:
        raise InputError(_explained(name, error)) from error


def hub_rows(name: str, split: str, config: str | None, revision: str | None) -> Iterator[bytes]:
    """Yield the rows of a dataset of the hub.

    Raises:
        InputError: it cannot be opened.
    """
    dataset = open_hub(name, split, config, revision)
    # Decoding would open the files and URLs in image and audio columns.
    rows = dataset.decode(False) if dataset.features else dataset
    yield from (dump(row) for row in rows)


def check_hub(name: str, split: str, config: str | None, revision: str | None) -> None:
    """Check within seconds that a dataset of the hub can be opened.

    Raises:
        InputError: it cannot.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        # Asked once: what follows tries for half a minute.
        HfApi().dataset_info(name, revision=revision, timeout=SECONDS)
    except OfflineModeIsEnabled:
        # It may be in the cache.
        pass
    except Exception as error:
        # The client of HTTP below has errors of its own.
        raise InputError(_explained(name, error)) from error
    open_hub(name, split, config, revision)


def _explained(name: str, error: Exception) -> str:
    from datasets.exceptions import DatasetNotFoundError, DatasetsError
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    reason = " ".join(str(error).split()).partition(" Example of usage")[0]
    if isinstance(error, RevisionNotFoundError):
        return f"{HUB}{name}: there is no such `revision`; give a branch, tag or commit of it"
    if isinstance(error, (DatasetNotFoundError, RepositoryNotFoundError)):
        return f"{HUB}{name}: no such dataset on the hub, or a private or gated one; correct the name, or set HF_TOKEN"
    if isinstance(error, ValueError) and re.search("config", reason, re.IGNORECASE):
        return f"{HUB}{name}: {reason.rstrip('.')}; name one with `config`"
    if isinstance(error, ValueError) and "split" in reason:
        return f"{HUB}{name}: {reason.rstrip('.')}; name one with `split`"
    if isinstance(error, ConnectionError) or not isinstance(error, (DatasetsError, OSError, RuntimeError, ValueError)):
        return f"{HUB}{name}: the hub cannot be reached ({reason}); {DOWNLOAD.format(name=name)}"
    return f"{HUB}{name}: {reason.rstrip('.')}; {DOWNLOAD.format(name=name)}"
