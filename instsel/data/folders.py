"""What data a folder stands for: a saved dataset, one of its splits, a clone from the hub, or the files in it."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from instsel.config.file import plain_values
from instsel.data.splits import choose_split, split_of
from instsel.data.tables import STATE
from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.io.uri import expand, walk

SPLITS = "dataset_dict.json"
CARD = "README.md"
FRONT_MATTER = re.compile(r"\A\ufeff?---\s*\n(.*?)\n---\s*(?:\n|\Z)", re.DOTALL)
ENDINGS = (".jsonl", ".ndjson", ".jsonlines", ".json", ".csv", ".tsv", ".parquet", ".arrow")
PACKED = (".gz", ".bz2", ".xz", ".zst")
# Of the folder of a study, and of the folder of rows that `instsel init` writes beside STUDY.yaml.
STUDY, GRAPH, HELD_OUT = "study.json", "graph.json", "-heldout"
# Descriptions of a dataset, which are no rows.
DESCRIPTIONS = {"dataset_info.json", "dataset_infos.json", SPLITS, STATE}


@dataclass(frozen=True)
class FolderFiles:
    """The files or saved datasets that a folder stands for, and the name of its rows if they are not named by file."""

    uris: list[str]
    name: str | None = None


def is_dataset(uri: str) -> bool:
    """Whether a folder was written by save_to_disk, of a dataset or of a dataset of several splits."""
    folder = Folder.at(uri)
    return folder.is_file(STATE) or folder.is_file(SPLITS)


def is_data(name: str) -> bool:
    """Whether a file's name ends as one of data does, packed or not, and is no description of a dataset."""
    path = PurePath(name.lower())
    while path.suffix in PACKED:
        path = path.with_suffix("")
    return path.suffix in ENDINGS and path.name not in DESCRIPTIONS


def has_data(uri: str) -> bool:
    """Whether there are files with the ending of data in a folder, at any depth."""
    return any(is_data(name) for name in walk(uri))


def data_files(uri: str) -> list[str]:
    """Return the files with the ending of data in a folder, at any depth, as sorted paths relative to it.

    What `instsel` wrote there is left out: studies, and the rows that `instsel init` held out beside a study file.
    """
    names = walk(uri)
    everything = set(names)
    studies = [name.removesuffix(STUDY) for name in names if name.endswith(f"/{STUDY}")]
    written = [folder for folder in studies if f"{folder}{GRAPH}" in everything]
    written += [f"{name.removesuffix('.yaml')}{HELD_OUT}/" for name in names if name.endswith(".yaml")]
    return [name for name in names if is_data(name) and not name.startswith(tuple(written))]


def folder_files(uri: str, split: str | None, config: str | None) -> FolderFiles:
    """Return the files that a folder stands for.

    A dataset that save_to_disk wrote is one file; of several splits it is the one that is asked for. Of a clone of a
    hub dataset, whose README.md lists configurations, it is the files of one of these and of a split. Of another folder
    it is all files with a known ending, at any depth; if their paths name splits, those of one. Several folders, and no
    file beside them, are configurations.

    Args:
        uri: of the folder.
        split: which is meant where there are several; None is the only one.
        config: which configuration is meant where there are several.

    Raises:
        InputError: there is no such split or configuration, or none is named and there are several; the message lists
            them.
    """
    uri = uri.rstrip("/")
    folder = Folder.at(uri)
    if config is not None and is_dataset(uri):
        raise InputError("it was saved by `datasets` and has no `config`; remove `config`")
    if folder.is_file(STATE):
        return FolderFiles([uri])
    if folder.is_file(SPLITS):
        return FolderFiles([f"{uri}/{choose_split(_splits(folder), split)}"], folder.name)
    configs = _configs(folder)
    if configs:
        return _configured(uri, configs[_choose_config(configs, config)], split, folder.name)
    return _listed(uri, split, config, folder.name)


def _splits(folder: Folder) -> list[str]:
    try:
        return [str(name) for name in json.loads(folder.read(SPLITS))["splits"]]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder}/{SPLITS} does not list the splits; save the dataset again") from error


def _configs(folder: Folder) -> dict[str, Mapping[str, Any]]:
    """Return the configurations that a dataset card lists with their files, by name."""
    if not folder.is_file(CARD):
        return {}
    front = FRONT_MATTER.match(folder.read(CARD).decode("utf-8", "replace").replace("\r\n", "\n"))
    if front is None:
        return {}
    try:
        values = plain_values(front[1])
    except InputError as error:
        raise InputError(f"{folder}/{CARD}: {error}") from error
    listed = values.get("configs") if isinstance(values, Mapping) else None
    configs = [each for each in (listed if isinstance(listed, list) else []) if isinstance(each, Mapping)]
    return {
        str(each.get("config_name", "default")): each
        for each in configs
        if each.get("data_files") or each.get("data_dir")
    }


def _choose_config(configs: Mapping[str, Mapping[str, Any]], config: str | None) -> str:
    listed = ", ".join(configs)
    if config is not None:
        if config in configs:
            return config
        raise InputError(f"it has no configuration `{config}`, but {listed}; name one of them with `config`")
    default = [name for name, each in configs.items() if name == "default" or each.get("default") or len(configs) == 1]
    if not default:
        raise InputError(f"it has the configurations {listed}; name one with `config`")
    return default[0]


def _configured(uri: str, config: Mapping[str, Any], split: str | None, name: str) -> FolderFiles:
    base = f"{uri}/{config['data_dir'].strip('/')}" if config.get("data_dir") else uri
    if not config.get("data_files"):
        return _listed(base, split, None, name)
    try:
        by_split = _by_split(config["data_files"])
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(f"its {CARD} lists data files in an unknown way; give a file or a glob") from error
    patterns = by_split[choose_split(list(by_split), split)]
    uris = [each for pattern in patterns for each in expand(f"{base}/{pattern}")]
    if not uris:
        raise InputError(f"no file matches {', '.join(patterns)}, which its {CARD} lists; download all of it")
    return FolderFiles(list(dict.fromkeys(uris)), name)


def _by_split(files: Any) -> dict[str, list[str]]:
    """Return patterns by split from `data_files`: one, a list, a mapping by split, or a list of split and path."""
    entries = [files] if isinstance(files, str) else files
    if isinstance(files, Mapping):
        entries = [{"split": split, "path": path} for split, path in files.items()]
    by_split: dict[str, list[str]] = {}
    for each in entries:
        entry = {"path": each} if isinstance(each, str) else each
        paths = [entry["path"]] if isinstance(entry["path"], str) else entry["path"]
        by_split.setdefault(str(entry.get("split", "train")), []).extend(paths)
    return by_split


def _listed(uri: str, split: str | None, config: str | None, name: str) -> FolderFiles:
    names = data_files(uri)
    if not names:
        raise InputError(f"a folder without data files ({', '.join(ENDINGS)}, packed or not); give a file or a glob")
    folders = sorted({each.partition("/")[0] for each in names if "/" in each})
    if config is not None:
        if config not in folders:
            known = f", but the folders {', '.join(folders)}; name one of them with `config`" if folders else ""
            raise InputError(f"it has no configuration `{config}`{known or '; remove `config`'}")
        uri, names = f"{uri}/{config}", [each.partition("/")[2] for each in names if each.startswith(f"{config}/")]
    elif len(folders) > 1 and all("/" in each for each in names) and not all(split_of(each) for each in folders):
        raise InputError(
            f"it has data in the folders {', '.join(folders)}; name one with `config`, or write {uri}/**/* for all"
        )
    splits = {each: split_of(each) for each in names}
    known_splits = sorted({each for each in splits.values() if each is not None})
    if not known_splits:
        if split not in (None, "train"):
            raise InputError(f"it has no split `{split}`, as no file in it names a split; remove `split`")
        return FolderFiles([f"{uri}/{each}" for each in names])
    if None in splits.values():
        plain = next(each for each, of_split in splits.items() if of_split is None)
        raise InputError(
            f"some files in it name a split ({', '.join(known_splits)}), and {plain} does not; give a file or a glob"
        )
    chosen = choose_split(known_splits, split)
    return FolderFiles([f"{uri}/{each}" for each in names if splits[each] == chosen], name)
