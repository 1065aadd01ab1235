"""Which stages a study folder has, whether they are done, and whether they are of one another."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import pyarrow as pa

from instsel.choice.ways import influences_of
from instsel.config import StudyConfig
from instsel.report.markdown import BASE
from instsel.stages.graph import ORDER, runs_of
from instsel.storage import Folder
from instsel.study import MANIFEST, STARTED, read_manifest

Manifest = Mapping[str, Any] | None
SHARED = ("attribution", "interaction")
COLUMNS = pa.schema(
    {
        "stage": pa.string(),
        "done": pa.bool_(),
        "current": pa.bool_(),
        "seconds": pa.float64(),
        "tokens": pa.int64(),
        "peak_memory_bytes": pa.int64(),
        "rows_again": pa.int64(),
        "version": pa.string(),
    }
)


def stage_names(study: StudyConfig) -> list[str]:
    """Stages that a study may have, by their folders, in the order in which they run."""
    runs = runs_of(study)
    several: dict[str, Iterable[str]] = {
        "attribution": influences_of(study),
        "interaction": study.mixture.estimators if study.mixture else [],
        "select": dict.fromkeys(run.selection for run in runs.values()),
        "finetune": runs,
        "evaluate": [BASE, *runs],
    }
    parts = {stage: [f"{stage}/{name}" for name in several[stage]] if stage in several else [stage] for stage in ORDER}
    return [name for stage in ORDER for name in parts[stage]]


def manifests(folder: Folder, names: Iterable[str]) -> dict[str, dict[str, Any] | None]:
    """What each stage that has begun says of itself, in the order of `names`; None of one that is not finished."""
    found: dict[str, dict[str, Any] | None] = {}
    for name in names:
        if (folder / name).exists(MANIFEST):
            found[name] = read_manifest(folder / name)
        elif (folder / name).exists(STARTED):
            found[name] = None
    return found


def left_over(folder: Folder, names: Collection[str]) -> list[str]:
    """Stages of an earlier study file from which some that are still of use may have been made."""
    found = [f"{stage}/{name}" for stage in SHARED for name in (folder / stage).names()]
    return [name for name in found if name not in names]


def outdated(found: Mapping[str, Manifest], beside: Mapping[str, Manifest], changed: Collection[str] = ()) -> list[str]:
    """Finished stages that were made by another study file, or from other stages than are there now, or from such ones.

    Args:
        found: stage -> its manifest, in the order in which they run.
        beside: the same of stages that are only looked up.
        changed: stages that were made by another study file, see `changed_stages`.
    """
    old: list[str] = []
    for name, manifest in found.items():
        parents = manifest["parents"] if manifest is not None else {}
        there = {parent: found.get(parent) or beside.get(parent) for parent in parents}
        if name in changed or any(parent in old or not _is(there[parent], mark) for parent, mark in parents.items()):
            old.append(name)
    return old


def stage_table(
    found: Mapping[str, Manifest], beside: Mapping[str, Manifest], changed: Collection[str] = ()
) -> pa.Table:
    """One line a stage that has begun, with what its last run took: see `Study.stages`, and `outdated`."""
    old = outdated(found, beside, changed)
    lines = []
    for name, manifest in found.items():
        line: dict[str, Any] = {"stage": name, "done": manifest is not None, "current": False}
        if manifest is not None:
            line |= {"current": name not in old, "version": manifest["code_version"]}
            # Studies of before 0.4 do not count rows that were done again.
            line |= {"rows_again": 0, **manifest["cost"]}
        lines.append(line)
    return pa.Table.from_pylist(lines, COLUMNS)


def _is(manifest: Manifest, fingerprint: str) -> bool:
    return manifest is not None and manifest["fingerprint"] == fingerprint
