"""Marks of what was begun, so that rows whose work had to be begun again are counted over every run of a stage.

A piece of work leaves an empty file KEY.TIMES.ROWS in the stage's folder before it is begun, and nothing else: the
folder's names alone tell how often each piece was begun, also by a driver that was killed.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import xxhash

from instsel import __version__
from instsel.errors import InputError
from instsel.io.fingerprint import fingerprint
from instsel.io.store import Folder

ATTEMPTS = "attempts"


@dataclass(frozen=True)
class Mark:
    """How often a piece of work was begun, and the rows that it is of."""

    times: int
    rows: int


def marks(stage: Folder) -> dict[str, Mark]:
    """What was begun in a stage's folder: key -> Mark."""
    found: dict[str, Mark] = {}
    for name in (stage / ATTEMPTS).names():
        key, times, rows = name.split(".")
        found[key] = max(found.get(key, Mark(0, 0)), Mark(int(times), int(rows)), key=lambda mark: mark.times)
    return found


def mark(stage: Folder, piece: str, rows: int, known: dict[str, Mark]) -> None:
    """Note that a piece of work is begun once more than `known` says, there and in the stage's folder."""
    key = xxhash.xxh3_64_hexdigest(piece.encode())
    times = known[key].times + 1 if key in known else 1
    (stage / ATTEMPTS).write(f"{key}.{times}.{rows}", b"")
    known[key] = Mark(times, rows)


def count_rows_reprocessed(stage: Folder) -> int:
    """Rows whose work was begun again; a row whose work was begun three times counts twice."""
    return sum((mark.times - 1) * mark.rows for mark in marks(stage).values())


MANIFEST = "manifest.json"
STARTED = "started.json"
STUDY = "study.json"
PARTS = {"stage", "config", "parents", "fingerprint", "code_version", "cost", "result"}


@dataclass
class StageFolder:
    """One step of a study: a folder and the fingerprint of everything its content depends on.

    The fingerprint chains: `parents` are stages whose own fingerprints enter this one's, so that a changed key
    makes exactly the stages after it stale.
    """

    folder: Folder
    name: str
    config: Mapping[str, Any]
    parents: Sequence["StageFolder"] = ()
    _began: float = field(default=0.0, repr=False)

    @property
    def fingerprint(self) -> str:
        parents = {parent.name: parent.fingerprint for parent in self.parents}
        return fingerprint({"stage": self.name, "config": self.config, "parents": parents, "code": __version__})

    def done(self) -> bool:
        """Whether the stage was finished with the fingerprint it has now."""
        return self._fingerprint_in(MANIFEST) == self.fingerprint

    def manifest(self) -> dict[str, Any]:
        return self.folder.read_json(MANIFEST)

    def start(self) -> None:
        """Make the folder ready: what an interrupted run of the same fingerprint left is kept, all else removed."""
        self._began = time.monotonic()
        if self._fingerprint_in(STARTED) == self.fingerprint:
            self.folder.clean()
            return
        self.folder.remove()
        self.folder.create()
        self.folder.write_json(STARTED, {"fingerprint": self.fingerprint})

    def commit(
        self,
        result: Mapping[str, Any],
        *,
        tokens: int = 0,
        peak_memory: int = 0,
        seconds: float | None = None,
        rows_reprocessed: int = 0,
    ) -> dict[str, Any]:
        """Write the manifest, which makes the stage done.

        Args:
            result: what later stages and readers need to know of it, JSON values only.
            tokens: tokens that went through a model in this run of the stage.
            peak_memory: largest resident memory of one of its processes, bytes.
            seconds: wall-clock time of this run of the stage; by default since `start`.
            rows_reprocessed: rows whose work was done again after a worker or a driver was lost, in all runs of the
                stage;
                those that have marks (`instsel.study.folder`) are added.
        """
        manifest = {
            "stage": self.name,
            "fingerprint": self.fingerprint,
            "code_version": __version__,
            "config": dict(self.config),
            "parents": {parent.name: parent.fingerprint for parent in self.parents},
            "cost": {
                "seconds": round(time.monotonic() - self._began if seconds is None else seconds, 2),
                "tokens": int(tokens),
                "peak_memory_bytes": int(peak_memory),
                "rows_reprocessed": int(rows_reprocessed) + count_rows_reprocessed(self.folder),
            },
            "result": dict(result),
        }
        self.folder.write_json(MANIFEST, manifest)
        (self.folder / ATTEMPTS).remove()
        return manifest

    def _fingerprint_in(self, name: str) -> str | None:
        if not self.folder.exists(name):
            return None
        return self.folder.read_json(name).get("fingerprint")


def open_folder(out: str, name: str) -> Folder:
    """The folder of the study called `name`, made if it is not there.

    Raises:
        InputError: the folder belongs to another study, holds other things, is a file or may not be written.
    """
    folder = look_at_folder(out, name)
    with _usable(out):
        if not folder.exists(STUDY):
            folder.create()
            folder.write_json(STUDY, {"name": name, "format": 1})
    return folder


def look_at_folder(out: str, name: str) -> Folder:
    """The folder of the study called `name`, which need not be there yet; nothing is written.

    Raises:
        InputError: the folder belongs to another study, holds other things or is a file.
    """
    with _usable(out):
        folder = Folder.at(out)
        if folder.exists(STUDY):
            owner = folder.read_json(STUDY).get("name")
            if owner != name:
                raise InputError(f"{out} holds the study {owner!r}, not {name!r}; give this study another folder")
        elif folder.names():
            raise InputError(f"{out} holds files that are no study; give an empty or new folder")
    return folder


def path_in_study(folder: Folder) -> tuple[str, str]:
    """Name of the study that a folder is in, and where in it the folder is; without a study above, "" and its path."""
    above, parts = folder, list[str]()
    while not above.exists(STUDY):
        if "/" not in above.path:
            return "", folder.path.strip("/")
        above, parts = above.parent, [above.name, *parts]
    return str(above.read_json(STUDY)["name"]), "/".join(parts)


@contextmanager
def _usable(out: str) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise InputError(f"out: {error}") from error
    except OSError as error:
        raise InputError(f"out: {out} cannot be used as a folder: {error}; give another one") from error


def read_manifest(folder: Folder) -> dict[str, Any]:
    """What a finished stage says of itself.

    Raises:
        InputError: its manifest is damaged, or is none.
    """
    found = folder.read_json(MANIFEST)
    if not isinstance(found, dict) or not PARTS <= found.keys():
        raise InputError(f"{folder}/{MANIFEST} is no manifest of a stage; delete that folder and run the study again")
    return found
