"""The input files of a study, and fingerprints of their content."""

import math
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass

from pyarrow import fs as pafs
from pydantic import JsonValue

from instsel.config.rows import Benchmark, File, Layout, Target
from instsel.config.study import StudyConfig
from instsel.data.folders import is_data
from instsel.data.hub import HUB
from instsel.data.readers import SourceFile, SourceOptions, check_file, source_files
from instsel.data.row_shapes import RowLayout
from instsel.data.tables import saved_files
from instsel.errors import InputError
from instsel.io.fingerprint import file_digests, file_identity
from instsel.io.uri import resolve, under_root

SPLITS = ("validation", "heldout")
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
# Of an entry with thousands of files that are all wrong.
MOST_PROBLEMS = 10


@dataclass(frozen=True)
class _Entry:
    """A path of the study file, with its key and how its files are read."""

    key: str
    uri: str
    options: SourceOptions
    allow_empty: bool = False


def pool_files(study: StudyConfig) -> list[SourceFile]:
    """List the files of the pool, in the order of the study file.

    Raises:
        InputError: a path does not exist; the message names its key.
    """
    return [file for entry in _pool_entries(study) for file in _files(study, entry)]


def readable_pool_files(study: StudyConfig) -> list[list[SourceFile]]:
    """List the files of each entry of the pool; none where it cannot be listed, of which `check_files` says why."""
    by_entry: list[list[SourceFile]] = []
    for entry in _pool_entries(study):
        by_entry.append([])
        with suppress(InputError):
            by_entry[-1] += _files(study, entry)
    return by_entry


def target_files(study: StudyConfig, name: str, rendered: str | None = None) -> dict[str, list[SourceFile]]:
    """List the files of a target by split: validation, and heldout if it has one.

    Args:
        study: the study file.
        name: of the target.
        rendered: folder with the rows of a task of lm-eval; by default where stage *benchmarks* leaves them.

    Raises:
        InputError: a path does not exist; the message names its key.
    """
    files = {split: _files(study, entry) for split, entry in _target_entries(study, name).items()}
    if study.targets[name].task is None:
        return files
    folder = rendered or f"{study.out}/benchmarks/{name}"
    return {**{split: [SourceFile(f"{folder}/{split}.jsonl", RowLayout("messages"))] for split in SPLITS}, **files}


def test_files(study: StudyConfig, name: str) -> list[SourceFile]:
    """List the files of test rows of a target or guard; none where it is scored on a task of lm-eval.

    Raises:
        InputError: a path does not exist; the message names its key.
    """
    return [file for entry in _test_entries(study, name) for file in _files(study, entry)]


def check_files(study: StudyConfig) -> list[str]:
    """Return all that is wrong with the files of pool, targets and guards, each with its key.

    Files that are not there, are empty, or hold no rows that can be read, folders of several splits or configurations,
    and datasets that the hub does not give. Only the first bytes of a file are read, and the end of a Parquet file.
    """
    return [problem for entry in _entries(study) for problem in _problems(study, entry)]


def files_with_columns(study: StudyConfig) -> Iterator[tuple[str, list[SourceFile]]]:
    """Yield the files of each part of the study file for which columns are named, by its key; not those of a hub."""
    for entry in _entries(study):
        if not entry.options["layout"].columns:
            continue
        with suppress(InputError):
            yield entry.key.rpartition(".")[0], [file for file in _files(study, entry) if not file.is_hub]


def input_paths(study: StudyConfig) -> dict[str, str]:
    """Return the paths of pool, targets and guards as the study file has them, by their keys."""
    return {entry.key: entry.uri for entry in _entries(study)}


def _entries(study: StudyConfig) -> list[_Entry]:
    entries = _pool_entries(study)
    for name in study.targets:
        entries += _target_entries(study, name).values()
    for name in study.scored:
        entries += _test_entries(study, name)
    return entries


def _problems(study: StudyConfig, entry: _Entry) -> list[str]:
    try:
        files = _files(study, entry)
    except InputError as error:
        return [str(error)]
    problems = []
    for file in files:
        try:
            check_file(file, entry.allow_empty)
        except (InputError, OSError) as error:
            problems.append(f"{entry.key}: {error}")
    if len(problems) <= MOST_PROBLEMS:
        return problems
    return [*problems[:MOST_PROBLEMS], f"{entry.key}: {len(problems) - MOST_PROBLEMS} more of its files cannot be used"]


def _pool_entries(study: StudyConfig) -> list[_Entry]:
    entries = []
    for index, source in enumerate(study.pool):
        options: SourceOptions = {
            "layout": layout_of(source, study),
            "source": source.source,
            "split": source.split,
            "limit": source.rows_per_file,
            "config": source.config,
            "revision": source.revision,
        }
        entries.append(_Entry(f"pool.{index}.path", source.path, options, source.allow_empty))
    return entries


def _target_entries(study: StudyConfig, name: str) -> dict[str, _Entry]:
    target: Target = study.targets[name]
    uris: dict[File, str | None] = {"validation": target.validation, "heldout": target.heldout}
    return {
        split: _Entry(f"targets.{name}.{split}", uri, _options(target, split, study))
        for split, uri in uris.items()
        if uri is not None
    }


def _test_entries(study: StudyConfig, name: str) -> list[_Entry]:
    each = study.scored[name]
    part = "targets" if name in study.targets else "guards"
    if each.test is None:
        return []
    return [_Entry(f"{part}.{name}.test", each.test, _options(each, "test", study))]


def _options(each: Benchmark, file: File, study: StudyConfig) -> SourceOptions:
    return {
        "layout": layout_of(each, study),
        "split": each.of_file("split", file),
        "config": each.of_file("config", file),
        "revision": each.of_file("revision", file),
    }


def layout_of(entry: Layout, study: StudyConfig) -> RowLayout:
    """Return where the rows of a pool entry, target or guard have what."""
    return RowLayout(entry.format, entry.columns, entry.roles, study.data.preference)


def files_identity(files: list[SourceFile]) -> list[JsonValue]:
    """Describe input files for a fingerprint: their content and how they are read, but not their location."""
    return [
        {"name": file.stem, **_content(file), "as": [asdict(file.layout), file.source, file.limit, *_other_split(file)]}
        for file in files
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


def _files(study: StudyConfig, entry: _Entry) -> list[SourceFile]:
    uri = under_root(study.root, entry.uri)
    try:
        return source_files(uri, allow_empty=entry.allow_empty, key=entry.key, **entry.options)
    except (InputError, OSError) as error:
        raise InputError(f"{entry.key}: {error}{hub_hint(entry.uri, error)}") from error


def hub_hint(uri: str, error: Exception) -> str:
    """Return what to write where a path that does not exist may be the name of a dataset of the hub; "" elsewhere."""
    is_hub_name = HUB_NAME.fullmatch(uri) and not is_data(uri) and "does not exist" in str(error)
    return f", or write {HUB}{uri} for a dataset of the Hugging Face hub" if is_hub_name else ""


def _other_split(file: SourceFile) -> list[JsonValue]:
    """Return the split if it decides what is read of a file: of a JSON object of several."""
    return [] if file.split in (None, "train") else [file.split]


def _content(file: SourceFile) -> dict[str, JsonValue]:
    if file.is_hub:
        given = {"config": file.config, "revision": file.revision}
        return {
            "hub": file.uri,
            "split": file.split or "train",
            **{key: value for key, value in given.items() if value is not None},
        }
    filesystem, path = resolve(file.uri)
    if filesystem.get_file_info(path).is_file:
        return file_identity(file.uri)
    saved = [f"{file.uri.rstrip('/')}/{name}" for name in saved_files(file.uri)]
    digests: list[JsonValue] = list(file_digests(saved))
    return {"saved": digests}
