"""What stages depend on beside each other: files, models, settings that several stages share."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from pydantic import JsonValue

from instsel.config.mixture import ClusterCategories, Mixture
from instsel.config.study import StudyConfig
from instsel.config.training import Training
from instsel.data.readers import SourceFile
from instsel.data.sources import files_identity, pool_files, target_files
from instsel.errors import InputError
from instsel.io.fingerprint import file_identity
from instsel.io.model_files import encoder_identity, model_identity
from instsel.models.dtypes import dtype_of

Settings = dict[str, JsonValue]

_IDENTITIES: ContextVar[dict[str, Settings] | None] = ContextVar("identities", default=None)


@contextmanager
def identities_kept(identities: dict[str, Settings]) -> Iterator[None]:
    """Look at each of the user's files and models once while the block runs, and keep what was seen in `identities`."""
    token = _IDENTITIES.set(identities)
    try:
        yield
    finally:
        _IDENTITIES.reset(token)


def pool_identity(config: StudyConfig) -> Settings:
    """Return the identity of the files of pool and targets, and how they are read."""

    def identify() -> Settings:
        pool = files_identity(pool_files(config))
        targets: Settings = {}
        for name in config.targets:
            if config.targets[name].task is None:
                targets[name] = {split: files_identity(files) for split, files in target_files(config, name).items()}
        return {"pool": pool, "targets": targets}

    return _kept("pool", identify)


def require_unchanged(config: StudyConfig, before: Mapping[str, JsonValue]) -> None:
    """Check that the files of pool and targets are those that a stage began with.

    Args:
        config: the study file.
        before: what `pool_identity` returned then.

    Raises:
        InputError: a file was written to, replaced, added or removed meanwhile; the message names its key.
    """
    for path, files in _files_by_part(config).items():
        then: Any = before
        for name in path:
            then = then[name]
        now = files_identity(files)
        differing = [file for file, old, new in zip(files, then, now, strict=False) if old != new]
        if differing or len(then) != len(now):
            key = next((file.key for file in differing or files), ".".join(path))
            what = differing[0].uri if differing else "the number of files"
            raise InputError(
                f"{key}: {what} changed while the study read it; wait until it is whole, and run the same command "
                "again, which prepares its rows again"
            )


def _files_by_part(config: StudyConfig) -> dict[tuple[str, ...], list[SourceFile]]:
    """Return the files of pool and targets, by where `pool_identity` has them."""
    files: dict[tuple[str, ...], list[SourceFile]] = {("pool",): pool_files(config)}
    for name, target in config.targets.items():
        if target.task is None:
            files |= {("targets", name, split): each for split, each in target_files(config, name).items()}
    return files


def trained_model(config: StudyConfig) -> Settings:
    """Return what identifies the model: its files or revision, its dtype, its attention, and the template's text."""

    def identify() -> Settings:
        template = config.model.chat_template
        return {
            "identity": model_identity(config.model.name, config.model.revision),
            "dtype": dtype_of(config.model),
            "attention": config.model.attention,
            "chat_template": None if template is None else _digest("model.chat_template", template),
        }

    return _kept("model", identify)


def encoder(config: StudyConfig) -> Settings:
    """Return what identifies the encoder of prompts: its files or revision."""
    return _kept("encoder", lambda: encoder_identity(config.embedding.encoder, config.embedding.revision))


def encoder_settings(config: StudyConfig) -> Settings:
    """Return how the encoder is used."""
    settings: Settings = config.embedding.model_dump(mode="json", exclude={"encoder", "revision"})
    return settings


def training_settings(training: Training) -> Settings:
    """Return the keys of a training but `micro_batch_size`, which changes results as the number of workers does.

    That is by rounding; so a training that ran out of memory resumes with smaller micro batches at its last checkpoint.
    """
    settings: Settings = training.model_dump(mode="json", exclude={"micro_batch_size"})
    return settings


def training_inputs(config: StudyConfig) -> Settings:
    """Return what identifies the model of a training, and DeepSpeed's configuration."""
    return {"model": trained_model(config), "deepspeed": deepspeed(config)}


def deepspeed(config: StudyConfig) -> Settings:
    """Return the ZeRO stage, or the digest of the configuration where the user wrote one."""
    path = config.deepspeed.config
    return {"stage": config.deepspeed.stage} if path is None else {"config": _digest("deepspeed.config", path)}


def adapter_settings(config: StudyConfig) -> Settings:
    """Return the settings of LoRA."""
    return {"lora": config.lora.model_dump(mode="json")}


def categories_by_embeddings(mixture: Mixture) -> bool:
    """Return whether the pool is divided, or its categories are weighed, by prompt embeddings."""
    return isinstance(mixture.categories, ClusterCategories) or mixture.importance == "targets"


def training_of_runs(config: StudyConfig, mixture: Mixture) -> Training:
    """Return how the runs are trained that tell how categories help each other."""
    return mixture.training or config.finetune


def _kept(name: str, identify: Callable[[], Settings]) -> Settings:
    identities = _IDENTITIES.get()
    if identities is None:
        return identify()
    if name not in identities:
        identities[name] = identify()
    return identities[name]


def _digest(key: str, path: str) -> str:
    try:
        return str(file_identity(path)["digest"])
    except InputError as error:
        raise InputError(f"{key}: {error}") from error
