"""The input files of a study, and fingerprints of their content."""

import math
from dataclasses import asdict

from pyarrow import fs as pafs
from pydantic import JsonValue

from instsel.config.rows import Layout, Target
from instsel.config.study import StudyConfig
from instsel.data.readers import HUB, SourceFile, SourceOptions, source_files
from instsel.data.row_shapes import RowLayout
from instsel.errors import InputError
from instsel.io.fingerprint import file_identity
from instsel.io.uri import resolve, under_root

SPLITS = ("validation", "heldout")


def pool_files(study: StudyConfig) -> list[SourceFile]:
    """List the files of the pool, in the order of the study file.

    Raises:
        InputError: a path does not exist; the message names its key.
    """
    files = []
    for index, entry in enumerate(study.pool):
        options: SourceOptions = {
            "layout": layout_of(entry, study),
            "source": entry.source,
            "split": entry.split,
            "limit": entry.rows_per_file,
        }
        files += _source_files(f"pool.{index}.path", under_root(study.root, entry.path), options)
    return files


def target_files(study: StudyConfig, name: str, rendered: str | None = None) -> dict[str, list[SourceFile]]:
    """List the files of a target by split: validation, and heldout if it has one.

    Args:
        study: the study file.
        name: of the target.
        rendered: folder with the rows of a task of lm-eval; by default where stage *benchmarks* leaves them.

    Raises:
        InputError: a path does not exist; the message names its key.
    """
    target: Target = study.targets[name]
    uris = {"validation": target.validation, "heldout": target.heldout}
    files = {
        split: _source_files(
            f"targets.{name}.{split}", under_root(study.root, uri), {"layout": layout_of(target, study)}
        )
        for split, uri in uris.items()
        if uri is not None
    }
    if target.task is None:
        return files
    folder = rendered or f"{study.out}/benchmarks/{name}"
    return {**{split: [SourceFile(f"{folder}/{split}.jsonl", RowLayout("messages"))] for split in SPLITS}, **files}


def test_files(study: StudyConfig, name: str) -> list[SourceFile]:
    """List the files of test rows of a target or guard; none where it is scored on a task of lm-eval.

    Raises:
        InputError: a path does not exist; the message names its key.
    """
    each = study.scored[name]
    if each.test is None:
        return []
    part = "targets" if name in study.targets else "guards"
    return _source_files(f"{part}.{name}.test", under_root(study.root, each.test), {"layout": layout_of(each, study)})


def layout_of(entry: Layout, study: StudyConfig) -> RowLayout:
    """Return where the rows of a pool entry, target or guard have what."""
    return RowLayout(entry.format, entry.columns, entry.roles, study.data.preference)


def files_identity(files: list[SourceFile]) -> list[JsonValue]:
    """Describe input files for a fingerprint: their content and how they are read, but not their location."""
    return [
        {"name": file.stem, **_content(file), "as": [asdict(file.layout), file.source, file.limit]} for file in files
    ]


def size_of(uri: str) -> float:
    """Return the bytes of a file or of a saved dataset's folder; infinity for a hub dataset, whose size is unknown."""
    if uri.startswith(HUB):
        return math.inf
    filesystem, path = resolve(uri)
    info = filesystem.get_file_info(path)
    if info.is_file:
        return float(info.size)
    inside = filesystem.get_file_info(pafs.FileSelector(path, recursive=True))
    return float(sum(file.size for file in inside if file.is_file))


def _source_files(key: str, uri: str, options: SourceOptions) -> list[SourceFile]:
    try:
        return source_files(uri, **options)
    except (InputError, OSError) as error:
        raise InputError(f"{key}: {error}") from error


def _content(file: SourceFile) -> dict[str, JsonValue]:
    if file.uri.startswith(HUB):
        return {"hub": file.uri, "split": file.split}
    filesystem, path = resolve(file.uri)
    if filesystem.get_file_info(path).is_file:
        return file_identity(file.uri)
    return {"saved": file_identity(f"{file.uri}/state.json")}
