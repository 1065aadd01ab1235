"""Models and datasets of the Hugging Face hub, each pinned to the commit that it had when the study first ran.

A branch moves: without a pin a study that resumes could load other weights or rows than it began with, and nothing
would tell. The commits are written into the study's folder, and from there into the configuration that stages run with.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar, get_args

from pydantic import BaseModel

from instsel.config.rows import Benchmark, File
from instsel.config.study import StudyConfig
from instsel.console import Terminal
from instsel.data.hub import HUB, SECONDS, hub_name
from instsel.errors import InputError
from instsel.io.model_files import ModelKey, checked_content, content_of, is_remote, local_folder, remote_files
from instsel.io.store import Folder
from instsel.study.dependencies import categories_by_embeddings

REVISIONS = "revisions.json"
COMMIT = re.compile(r"[0-9a-f]{40}")
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
MAIN = "main"

PartT = TypeVar("PartT", bound=BaseModel)
BenchmarkT = TypeVar("BenchmarkT", bound=Benchmark)


class Repository(NamedTuple):
    """A model or dataset of the hub, and which revision of it the study file asks for."""

    kind: Literal["model", "dataset"]
    name: str
    revision: str

    @property
    def key(self) -> str:
        """Name in the file of revisions."""
        return f"{self.kind} {self.name} {self.revision}"


def with_pinned_revisions(config: StudyConfig, folder: Folder, console: Terminal | None = None) -> StudyConfig:
    """Return the study with commits in place of branches and tags, for models and datasets of the hub.

    A model behind a URI is pinned to the content that it has now. That is not noted: no store gives back what was there
    before, so what is done with another content is stale.

    Args:
        config: the checked study file.
        folder: of the study; commits that are noted there are taken.
        console: where it is said what is pinned, in which case it is noted in the folder; None writes nothing.

    Raises:
        InputError: a model behind a URI cannot be read.
    """
    config = _with_contents(config)
    repositories = set(_repositories(config))
    if not repositories:
        return config
    noted = _read_noted(folder)
    commits = {each: noted.get(each.key) or find_commit(each) for each in sorted(repositories)}
    pinned = {each: commit for each, commit in commits.items() if commit is not None}
    added = {each.key: commit for each, commit in pinned.items() if each.key not in noted}
    if added and console is not None:
        folder.write_json(REVISIONS, {**noted, **added})
        for key, commit in added.items():
            console.say(f"{key} of the hub is pinned to commit {commit}")
    return _replaced(config, pinned)


def _read_noted(folder: Folder) -> dict[str, str]:
    """Return the commits that are noted in a study's folder.

    Raises:
        InputError: the file has something else.
    """
    if not folder.exists(REVISIONS):
        return {}
    noted = folder.read_json(REVISIONS)
    if isinstance(noted, dict) and all(
        isinstance(commit, str) and COMMIT.fullmatch(commit) for commit in noted.values()
    ):
        return noted
    raise InputError(
        f"{folder}/{REVISIONS} has to name a commit, 40 digits, for each model and dataset of the hub; correct it, or "
        "delete it, and what the branches are now is pinned"
    )


def find_commit(repository: Repository) -> str | None:
    """Return the commit of a revision: asked of the hub, else what this machine's cache has; None if neither tells."""
    from huggingface_hub import HfApi

    if COMMIT.fullmatch(repository.revision):
        return repository.revision
    api = HfApi()
    ask = api.model_info if repository.kind == "model" else api.dataset_info
    try:
        return ask(repository.name, revision=repository.revision, timeout=SECONDS).sha
    except Exception:
        # The client of HTTP has errors of its own; what is wrong with a name, the checks before a run say.
        return _cached_commit(repository)


def _cached_commit(repository: Repository) -> str | None:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    name = repo_folder_name(repo_id=repository.name, repo_type=repository.kind)
    reference = Path(constants.HF_HUB_CACHE, name, "refs", repository.revision)
    try:
        commit = reference.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    return commit if COMMIT.fullmatch(commit) else None


def _with_contents(config: StudyConfig) -> StudyConfig:
    """Return the study with the contents of models behind URIs as their revisions."""
    model, embedding = config.model, config.embedding
    if is_remote(model.name):
        content = _content(model.name, model.revision, "model.name")
        config = config.model_copy(update={"model": model.model_copy(update={"revision": content})})
    if _embeds(config) and is_remote(embedding.encoder):
        content = _content(embedding.encoder, embedding.revision, "embedding.encoder")
        config = config.model_copy(update={"embedding": embedding.model_copy(update={"revision": content})})
    return config


def _content(name: str, revision: str | None, key: ModelKey) -> str:
    return checked_content(revision, key) or content_of(remote_files(name, key))


def _repositories(config: StudyConfig) -> Iterator[Repository]:
    for kind, name, revision in _named(config):
        if (repository := _repository(kind, name, revision)) is not None:
            yield repository


def _named(config: StudyConfig) -> Iterator[tuple[Literal["model", "dataset"], str | None, str | None]]:
    yield "model", config.model.name, config.model.revision
    yield "model", config.embedding.encoder if _embeds(config) else None, config.embedding.revision
    for source in config.pool:
        yield "dataset", source.path, source.revision
    for each in (*config.targets.values(), *config.guards.values()):
        files: tuple[File, ...] = get_args(File)
        for file in files:
            yield "dataset", getattr(each, file, None), each.of_file("revision", file)


def _repository(kind: Literal["model", "dataset"], name: str | None, revision: str | None) -> Repository | None:
    """Return what a name of the study file stands for; None where that is nothing of the hub."""
    if name is None:
        return None
    if kind == "dataset":
        if not name.startswith(HUB):
            return None
        try:
            return Repository(kind, hub_name(name), revision or MAIN)
        except InputError:
            # No name, but the path of a file, or an error that the checks before a run list.
            return None
    is_local = local_folder(name).exists()
    return None if is_local or not HUB_ID.fullmatch(name) else Repository(kind, name, revision or MAIN)


def _embeds(config: StudyConfig) -> bool:
    by_method = any(method.requires == "embeddings" for method in config.selection.methods)
    return by_method or (config.mixture is not None and categories_by_embeddings(config.mixture))


def _replaced(config: StudyConfig, commits: Mapping[Repository, str]) -> StudyConfig:
    def commit_of(kind: Literal["model", "dataset"], name: str | None, revision: str | None) -> str | None:
        repository = _repository(kind, name, revision)
        return revision if repository is None else commits.get(repository, revision)

    def with_commit(part: PartT, kind: Literal["model", "dataset"], name: str) -> PartT:
        given = part.revision  # type: ignore[attr-defined]
        commit = commit_of(kind, name, given)
        return part if commit == given else part.model_copy(update={"revision": commit})

    def with_commits(each: BenchmarkT) -> BenchmarkT:
        files: tuple[File, ...] = get_args(File)
        given = {file: each.of_file("revision", file) for file in files}
        pinned = {file: commit_of("dataset", getattr(each, file, None), revision) for file, revision in given.items()}
        if pinned == given:
            return each
        return each.model_copy(update={"revision": {file: commit for file, commit in pinned.items() if commit}})

    encoder = config.embedding.encoder
    return config.model_copy(
        update={
            "model": with_commit(config.model, "model", config.model.name),
            "embedding": with_commit(config.embedding, "model", encoder) if _embeds(config) else config.embedding,
            "pool": [with_commit(source, "dataset", source.path) for source in config.pool],
            "targets": {name: with_commits(each) for name, each in config.targets.items()},
            "guards": {name: with_commits(each) for name, each in config.guards.items()},
        }
    )
