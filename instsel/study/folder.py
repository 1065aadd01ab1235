"""The folder of a study: a subfolder a stage, its manifest and fingerprint, attempts, and what is still valid."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict, TypeVar

import xxhash
from pydantic import BaseModel, JsonValue

from instsel import __version__
from instsel.errors import InputError
from instsel.io.fingerprint import fingerprint
from instsel.io.store import Folder

MANIFEST = "manifest.json"
STARTED = "started.json"
STUDY = "study.json"
# The stages of the study file as it was last run, for those who read the folder: names and settings.
GRAPH = "graph.json"
# Of the folder as a whole: names of stages, files and keys. Raised when one of them changes.
FORMAT = 2
# Results of other settings that took longer than this are kept here until `instsel clean`.
STALE = "stale"
KEPT_SECONDS = 60.0

Json = Mapping[str, JsonValue]
ResultT = TypeVar("ResultT", bound=BaseModel)
ATTEMPTS = "attempts"
MOST_KEPT = 100


class ManifestCost(TypedDict):
    """What the last run of a stage took."""

    seconds: float
    tokens: int
    peak_memory_bytes: int
    rows_reprocessed: int


class Manifest(TypedDict):
    """What a finished stage says of itself, `manifest.json`.

    `result` is the stage's result as JSON; `StageFolder.result` and `StudyReader.result` give it its type.
    """

    stage: str
    version: int
    fingerprint: str
    code_version: str
    settings: dict[str, JsonValue]
    inputs: dict[str, JsonValue]
    parents: dict[str, str]
    cost: ManifestCost
    result: dict[str, Any]


class _SettledDtype(TypedDict, total=False):
    dtype: Literal["float32", "bfloat16"]
    dtype_reason: str


class StudyEntry(_SettledDtype):
    """What `study.json` says of the whole study: its name and format, and the dtype that was settled, if one was."""

    name: str
    format: int


@dataclass(frozen=True)
class Cost:
    """What a run of a stage took.

    Attributes:
        tokens: tokens that went through a model.
        peak_memory: largest resident memory of one of its processes, bytes.
        rows_reprocessed: rows whose work was done again after a worker or a driver was lost, in all runs of the stage;
            those of the folder's attempts are added.
        seconds: wall-clock time; None for that since the stage was started.
    """

    tokens: int = 0
    peak_memory: int = 0
    rows_reprocessed: int = 0
    seconds: float | None = None


@dataclass
class StageFolder:
    """One key of a stage in a study: a folder, and the fingerprint of everything that its content depends on.

    Fingerprints chain: those of the parents enter this one, so that a changed key of the study file makes exactly the
    stages after it stale. The version of the package is in no fingerprint; the stage's own is.

    Attributes:
        folder: where its files are.
        name: path below the study's folder: `features`, `attribution/cosine`.
        settings: what of the study file its content depends on, JSON values only.
        inputs: identity of the user's files and models that it reads, JSON values only.
        parents: stages whose content it reads.
        version: of the stage, see `Stage.version`.
        stale: folder for what this stage left with another fingerprint; None where that is deleted.
    """

    folder: Folder
    name: str
    settings: Json
    parents: Sequence["StageFolder"] = ()
    inputs: Json = field(default_factory=dict)
    version: int = 1
    stale: Folder | None = None
    _started: float = field(default=0.0, repr=False)

    @property
    def key(self) -> str:
        """What distinguishes it from other keys of its stage; empty where the stage has one."""
        return self.name.partition("/")[2]

    @property
    def fingerprint(self) -> str:
        """Hex digest of the stage, its version, its settings and inputs, and the fingerprints of its parents."""
        return stage_fingerprint(self.name, self.version, self.settings, self.inputs, self._parent_fingerprints())

    def done(self) -> bool:
        """Return whether the stage was finished with the fingerprint that it has now."""
        return self._fingerprint_in(MANIFEST) == self.fingerprint

    def manifest(self) -> Manifest:
        """Read the manifest of the finished stage."""
        return read_manifest(self.folder)

    def result(self, kind: type[ResultT]) -> ResultT:
        """Read the result of the finished stage as its type."""
        return parse_result(kind, self.manifest(), str(self.folder))

    def start(self) -> None:
        """Make the folder ready: what an interrupted run of the same fingerprint left is kept, all else set aside.

        Raises:
            InputError: see `clear`.
        """
        self._started = time.monotonic()
        if self.is_started():
            self.folder.clean()
            return
        self.clear()
        self.folder.create()
        self.folder.write_json(STARTED, {"fingerprint": self.fingerprint})

    def clear(self) -> None:
        """Clear the folder; what took more than a minute is renamed into `stale`.

        Raises:
            InputError: it took more than a minute and is behind a URI, where a rename copies every byte.
        """
        if self.stale is None or self.seconds_spent() <= KEPT_SECONDS:
            self.folder.remove()
            return
        if not self.folder.is_local:
            raise InputError(
                f"{self.folder} has results of other settings, which took {duration(self.seconds_spent())}; run with "
                "--redo to delete them and make them again"
            )
        kept = self._kept(self._fingerprint_in(STARTED) or "unknown")
        for number in range(1, 1 + MOST_KEPT):
            target = kept if number == 1 else self.stale / f"{kept.name}-{number}"
            if not target.exists():
                self.folder.rename(target)
                return
        raise InputError(f"{self.stale} has {MOST_KEPT} folders {kept.name}; delete it with `instsel clean`")

    def restore(self) -> bool:
        """Bring back from `stale` what was made with the fingerprint that the stage has now; return whether it was."""
        if self.stale is None or not self.folder.is_local or self.done():
            return False
        kept = self._kept(self.fingerprint)
        if not kept.exists(STARTED):
            return False
        self.clear()
        kept.rename(self.folder)
        return True

    def _kept(self, fingerprint: str) -> Folder:
        assert self.stale is not None
        return self.stale / f"{self.name.replace('/', '-')}-{fingerprint}"

    def is_started(self) -> bool:
        """Return whether the folder was begun with the fingerprint that the stage has now."""
        return self._fingerprint_in(STARTED) == self.fingerprint

    def is_stale(self) -> bool:
        """Return whether the folder holds something of another fingerprint."""
        recorded = self._fingerprint_in(STARTED)
        return recorded is not None and recorded != self.fingerprint

    def seconds_spent(self) -> float:
        """Return what was spent on the folder's content: as its manifest has it, or between its first and last file."""
        infos = {info.path.removeprefix(f"{self.folder.path}/"): info for info in self.folder.infos()}
        if STARTED not in infos:
            return 0.0
        recorded = 0.0
        if MANIFEST in infos:
            with suppress(InputError):
                recorded = float(self.manifest()["cost"]["seconds"])
            # Files beside it may be newer: a report is built again.
            infos = {name: infos[name] for name in (STARTED, MANIFEST)}
        times = [info.mtime.timestamp() for info in infos.values() if info.mtime is not None]
        start = infos[STARTED].mtime
        return max(recorded, 0.0 if start is None else max(times) - start.timestamp())

    def commit(self, result: BaseModel, cost: Cost = Cost()) -> None:
        """Write the manifest, which makes the stage done.

        Args:
            result: what later stages and readers need to know of it.
            cost: what this run of it took.
        """
        seconds = time.monotonic() - self._started if cost.seconds is None else cost.seconds
        manifest: Manifest = {
            "stage": self.name,
            "version": self.version,
            "fingerprint": self.fingerprint,
            "code_version": __version__,
            "settings": dict(self.settings),
            "inputs": dict(self.inputs),
            "parents": self._parent_fingerprints(),
            "cost": {
                "seconds": round(seconds, 2),
                "tokens": int(cost.tokens),
                "peak_memory_bytes": int(cost.peak_memory),
                "rows_reprocessed": int(cost.rows_reprocessed) + count_rows_reprocessed(self.folder),
            },
            "result": result.model_dump(mode="json", exclude_none=True),
        }
        self.folder.write_json(MANIFEST, manifest)
        (self.folder / ATTEMPTS).remove()

    def _parent_fingerprints(self) -> dict[str, str]:
        return {parent.name: parent.fingerprint for parent in self.parents}

    def _fingerprint_in(self, name: str) -> str | None:
        if not self.folder.exists(name):
            return None
        recorded: str | None = self.folder.read_json(name).get("fingerprint")
        return recorded


def duration(seconds: float) -> str:
    """Return a time in words: `3 h 20 min`, `12 min`, `40 s`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def stage_fingerprint(name: str, version: int, settings: Json, inputs: Json, parents: Mapping[str, str]) -> str:
    """Return the fingerprint of a stage by what its content depends on; its manifest has all of it."""
    return fingerprint(
        {
            "stage": name,
            "version": version,
            "settings": dict(settings),
            "inputs": dict(inputs),
            "parents": dict(parents),
        }
    )


def open_folder(out: str, name: str) -> Folder:
    """Return the folder of the study called `name`, and make it if it is not there.

    Raises:
        InputError: the folder belongs to another study or another version, holds other things, is a file or may not be
            written.
    """
    folder = find_folder(out, name)
    with _usable(out):
        if not folder.exists(STUDY):
            folder.create()
            folder.write_json(STUDY, {"name": name, "format": FORMAT})
    return folder


def find_folder(out: str, name: str) -> Folder:
    """Return the folder of the study called `name`, which need not be there yet; nothing is written.

    Raises:
        InputError: the folder belongs to another study or another version, holds other things or is a file.
    """
    with _usable(out):
        folder = Folder.at(out)
        if folder.exists(STUDY):
            owner = read_study_entry(folder)["name"]
            if owner != name:
                raise InputError(f"{out} holds the study {owner!r}, not {name!r}; give this study another folder")
        elif folder.names():
            raise InputError(f"{out} holds files that are no study; give an empty or new folder")
    return folder


def read_study_entry(folder: Folder) -> StudyEntry:
    """Read `study.json` of a study's folder: name, format, and what was settled for the whole study.

    Raises:
        InputError: the folder was written by a version of instsel with another format.
    """
    entry: StudyEntry = folder.read_json(STUDY)
    if entry.get("format") != FORMAT:
        raise InputError(
            f"{folder} was written by another version of instsel (format {entry.get('format')}, this one has format "
            f"{FORMAT}); read it with the version that wrote it, or run the study again with another `out`"
        )
    return entry


def path_in_study(folder: Folder) -> tuple[str, str]:
    """Return the name of the study that a folder is in and its path there; without a study above, "" and its path."""
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


def read_manifest(folder: Folder) -> Manifest:
    """Read what a finished stage says of itself.

    Raises:
        InputError: its manifest is damaged, or is none.
    """
    manifest = folder.read_json(MANIFEST)
    if not isinstance(manifest, dict) or not Manifest.__required_keys__ <= manifest.keys():
        raise InputError(f"{folder}/{MANIFEST} is no manifest of a stage; delete that folder and run the study again")
    return manifest  # type: ignore[return-value]


def parse_result(kind: type[ResultT], manifest: Manifest, where: str) -> ResultT:
    """Give a manifest's result its type.

    Args:
        kind: the type that the stage leaves.
        manifest: of the stage.
        where: its folder, for the error.

    Raises:
        InputError: it is something else.
    """
    try:
        return kind.model_validate(manifest["result"])
    except ValueError as error:
        raise InputError(
            f"{where}/{MANIFEST} has no result of stage {manifest['stage']}: {str(error).splitlines()[0]}; delete that "
            "folder and run the study again"
        ) from error


@dataclass(frozen=True)
class Attempts:
    """How often a piece of work was started, and how many rows it has.

    Work leaves an empty file KEY.TIMES.ROWS in the stage's folder before it starts, and nothing else: the names of the
    files tell how often each piece was started, also by a driver that was killed.
    """

    times: int
    rows: int


def read_attempts(stage: Folder) -> dict[str, Attempts]:
    """Return the attempts at each piece of work in a stage's folder, by the digest of its name."""
    attempts: dict[str, Attempts] = {}
    for name in (stage / ATTEMPTS).names():
        key, times, rows = name.split(".")
        earlier = attempts.get(key, Attempts(0, 0))
        attempts[key] = max(earlier, Attempts(int(times), int(rows)), key=lambda each: each.times)
    return attempts


def count_attempt(stage: Folder, piece: str, rows: int, known: dict[str, Attempts]) -> None:
    """Note one more attempt at a piece of work than `known` has, there and in the stage's folder."""
    key = xxhash.xxh3_64_hexdigest(piece.encode())
    times = known[key].times + 1 if key in known else 1
    (stage / ATTEMPTS).write(f"{key}.{times}.{rows}", b"")
    known[key] = Attempts(times, rows)


def count_rows_reprocessed(stage: Folder) -> int:
    """Count the rows whose work was started again; a row whose work was started three times counts twice."""
    return sum((each.times - 1) * each.rows for each in read_attempts(stage).values())
