"""The files a study reads, found and told apart by their content."""

import math
from typing import Any

from pyarrow import fs as pafs

from instsel.config.study import StudyConfig, Target
from instsel.data.readers import HUB, SourceFile, source_files
from instsel.errors import InputError
from instsel.io.fingerprint import file_identity
from instsel.io.uri import resolve, under_root


def pool_files(study: StudyConfig) -> list[SourceFile]:
    """Every file of the pool, in the order of the study file.

    Raises:
        InputError: a path leads nowhere; the message names its key.
    """
    files = []
    for number, place in enumerate(study.pool):
        how = {"row_format": place.format, "source": place.source, "split": place.split, "limit": place.rows_per_file}
        files += _found(f"pool.{number}.path", under_root(study.root, place.path), how)
    return files


def target_files(study: StudyConfig, name: str) -> dict[str, list[SourceFile]]:
    """Files of a target by split: validation, and heldout where it has one.

    Raises:
        InputError: a path leads nowhere; the message names its key.
    """
    target: Target = study.targets[name]
    places = {"validation": target.validation, "heldout": target.heldout}
    return {
        split: _found(f"targets.{name}.{split}", under_root(study.root, place), {"row_format": target.format})
        for split, place in places.items()
        if place is not None
    }


def files_identity(files: list[SourceFile]) -> list[dict[str, Any]]:
    """What a stage's input files are: their content and how they are read, not where they lie."""
    return [{"name": file.stem, **_content(file), "as": [file.row_format, file.source, file.limit]} for file in files]


def size_of(uri: str) -> float:
    """Bytes of a file, or of a saved dataset's folder; infinity for a dataset of a hub, which is not here yet."""
    if uri.startswith(HUB):
        return math.inf
    filesystem, path = resolve(uri)
    info = filesystem.get_file_info(path)
    if info.is_file:
        return float(info.size)
    inside = filesystem.get_file_info(pafs.FileSelector(path, recursive=True))
    return float(sum(one.size for one in inside if one.is_file))


def _found(key: str, uri: str, how: dict[str, Any]) -> list[SourceFile]:
    try:
        return source_files(uri, **how)
    except (InputError, OSError) as error:
        raise InputError(f"{key}: {error}") from error


def _content(file: SourceFile) -> dict[str, Any]:
    if file.uri.startswith(HUB):
        return {"hub": file.uri, "split": file.split}
    filesystem, path = resolve(file.uri)
    if filesystem.get_file_info(path).is_file:
        return file_identity(file.uri)
    return {"saved": file_identity(f"{file.uri}/state.json")}
