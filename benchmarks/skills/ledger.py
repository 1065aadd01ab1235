"""Results on disk: a file an arm while they are computed, and the evidence that they are gathered into.

A folder of evidence has

- settings.json: the settings, their digest, and the digest of the base model's weights.
- results.parquet: a line for each world, arm and seed: the rows taken, and which test items were answered right.
- seconds.parquet: what each arm and each signal took. These differ from run to run, the other two files do not.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from torch import nn

from benchmarks.skills.arms import NAMES
from benchmarks.skills.frozen import Settings
from benchmarks.skills.world import DISTANCES, KINDS, Distance
from instsel.errors import InputError

SHARES = ("recall", "of_good_skill", *KINDS)
"""Of the rows taken: helpful ones (of those that fit), those of a skill that helps, and each kind."""

SCHEMA = pa.schema(
    [
        ("world", pa.string()),
        ("arm", pa.string()),
        ("seed", pa.int64()),
        ("accuracy", pa.float64()),  # exact match, mean over the targets
        *((name, pa.float64()) for name in SHARES),  # null where no row of the pool is taken
        ("rows", pa.list_(pa.int64())),  # indices in the pool, rising
        ("correct", pa.list_(pa.bool_())),  # of the test items, target after target
    ]
)
SECONDS = pa.schema(
    [
        ("world", pa.string()),
        ("seed", pa.int64()),
        ("part", pa.string()),  # signal, choice or training; the last includes the test
        ("name", pa.string()),  # of the signal or the arm
        ("cpu_seconds", pa.float64()),
    ]
)
_SETTINGS = "settings.json"


@dataclass(frozen=True)
class Key:
    """What a result is of."""

    world: Distance
    arm: str
    seed: int

    @property
    def position(self) -> tuple[int, int, int]:
        """Where it stands in the file of results."""
        return DISTANCES.index(self.world), NAMES.index(self.arm), self.seed


def weights_digest(model: nn.Module) -> str:
    """Return sixteen hexadecimal digits of a model's weights."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


class Ledger:
    """What is done of a benchmark: in a folder of evidence, and in one of arms that were computed since.

    Attributes:
        evidence: the folder of evidence.
        identity: settings, their digest, and that of the base model.
    """

    def __init__(self, evidence: Path, work: Path, settings: Settings, base: nn.Module) -> None:
        """Check that the evidence is of these settings and this base model.

        Raises:
            InputError: it is of others.
        """
        self.evidence = evidence
        self.identity = {"digest": settings.digest, "base": weights_digest(base), "settings": asdict(settings)}
        self._parts = work / f"arms-{settings.digest}-{self.identity['base']}"
        kept = read_settings(evidence) if (evidence / _SETTINGS).exists() else None
        for key, what in (("digest", "settings"), ("base", "base model")):
            if kept and kept[key] != self.identity[key]:
                raise InputError(
                    f"--evidence: {evidence} has results of another {what} ({kept[key]}, here {self.identity[key]}); "
                    "name another folder"
                )
        self._kept = {_key(line) for line in _lines(evidence / "results.parquet")}

    def missing(self, keys: list[Key]) -> list[Key]:
        """Return those of the keys that have no result."""
        return [key for key in keys if key not in self._kept and not self._part(key).exists()]

    def add(self, key: Key, line: dict[str, Any], seconds: list[dict[str, Any]]) -> None:
        """Keep the result of an arm; it is there whole or not at all."""
        path = self._part(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        written = path.with_name(f".{path.name}.{os.getpid()}")
        written.write_text(json.dumps({"line": asdict(key) | line, "seconds": seconds}), encoding="utf-8")
        written.replace(path)

    def gather(self, keys: Sequence[Key]) -> None:
        """Write the evidence from what it had and the results of these keys; arms of other keys stay where they are."""
        paths = [path for path in map(self._part, keys) if path.exists()]
        parts = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
        lines = {_key(line): line for line in _lines(self.evidence / "results.parquet")}
        lines |= {_key(part["line"]): part["line"] for part in parts}
        seconds = [*_lines(self.evidence / "seconds.parquet"), *chain(*(part["seconds"] for part in parts))]
        # Of a signal that was computed again after a stop, the last.
        last = {tuple(line[name] for name in SECONDS.names[:-1]): line for line in seconds}
        self.evidence.mkdir(parents=True, exist_ok=True)
        (self.evidence / _SETTINGS).write_text(json.dumps(self.identity, indent=1) + "\n", encoding="utf-8")
        ordered = [lines[key] for key in sorted(lines, key=lambda key: key.position)]
        _write(ordered, SCHEMA, self.evidence / "results.parquet")
        _write([last[key] for key in sorted(last)], SECONDS, self.evidence / "seconds.parquet")

    def _part(self, key: Key) -> Path:
        return self._parts / f"{key.world}-{key.seed}" / f"{key.arm.replace(':', '.')}.json"


def read_settings(evidence: Path) -> dict[str, Any]:
    """Return what settings.json has: digest, base, settings."""
    kept: dict[str, Any] = json.loads((evidence / _SETTINGS).read_text(encoding="utf-8"))
    return kept


def read_results(evidence: Path) -> list[dict[str, Any]]:
    """Return the lines of results.parquet.

    Raises:
        InputError: there is none.
    """
    if not (evidence / "results.parquet").exists():
        raise InputError(f"--evidence: {evidence} has no results.parquet; run the arms first")
    return list(_lines(evidence / "results.parquet"))


def read_seconds(evidence: Path) -> list[dict[str, Any]]:
    """Return the lines of seconds.parquet."""
    return list(_lines(evidence / "seconds.parquet"))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        yield from pq.read_table(path).to_pylist()


def _key(line: dict[str, Any]) -> Key:
    return Key(line["world"], line["arm"], line["seed"])


def _write(lines: list[dict[str, Any]], schema: pa.Schema, path: Path) -> None:
    written = path.with_name(f".{path.name}.{os.getpid()}")
    # Rising numbers take a few bits each as differences; dictionaries would take more.
    pq.write_table(
        pa.Table.from_pylist(lines, schema=schema),
        written,
        compression="zstd",
        use_dictionary=["world", "arm", "part", "name"],
        column_encoding={"rows.list.element": "DELTA_BINARY_PACKED"} if schema is SCHEMA else None,
    )
    written.replace(path)
