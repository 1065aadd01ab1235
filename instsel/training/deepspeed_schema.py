"""What is wrong with a DeepSpeed configuration, by DeepSpeed's own schema, before anything is trained."""

import difflib
import traceback
from collections.abc import Iterator, KeysView
from typing import Any

from pydantic import JsonValue, ValidationError

from instsel.config.study import StudyConfig
from instsel.config.training import Training
from instsel.errors import InputError, Problem
from instsel.training.deepspeed import complete, import_deepspeed, read_json, section
from instsel.training.schedule import TrainSettings

KEY = "deepspeed.config"
MOST_SECTIONS = 20
ZERO = "zero_optimization"
BY_WORKERS = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
"""Values that the number of workers decides, which is known once the cluster is."""

PARALLEL = {"tensor_parallel": "autotp_size", "expert_parallel": "autoep_size", "pipeline": "stages"}
"""Sections that divide a model by more than ZeRO, and how many parts they make of it."""


def deepspeed_problems(study: StudyConfig) -> list[Problem]:
    """Compare the DeepSpeed configuration of a study with DeepSpeed's schema and with the study file."""
    if study.deepspeed.config is None:
        return []
    try:
        user = read_json(study.deepspeed.config)
        messages = [*_texts(user)]
        user = _with_booleans(user)
        messages += _parallel(user)
        # These were named, and what is wrong beside them is named too.
        messages += _messages({key: value for key, value in user.items() if key not in PARALLEL or not messages}, study)
    except InputError as error:
        return [Problem.of(error, KEY)]
    return [Problem(KEY, message) for message in dict.fromkeys(messages)]


def why_rejected(error: Exception) -> str:
    """Put an error of DeepSpeed into words; many of its checks raise an AssertionError without any."""
    text = " ".join(str(error).split())
    if text:
        return text
    frames = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__} at `{frames[-1].line}`" if frames else type(error).__name__


def _texts(values: dict[str, JsonValue], above: str = "") -> Iterator[str]:
    """Yield a message for each true or false that is written as text, which counts as true."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _texts(value, f"{above}{key}.")
        elif isinstance(value, str) and value.lower() in ("true", "false"):
            yield f'{above}{key} is the text "{value}"; write {value.lower()} without quotes'


def _with_booleans(values: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Return a configuration with `true` and `false` in place of such texts."""
    read: dict[str, JsonValue] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            read[key] = _with_booleans(value)
        else:
            is_text = isinstance(value, str) and value.lower() in ("true", "false")
            read[key] = str(value).lower() == "true" if is_text else value
    return read


def _parallel(user: dict[str, JsonValue]) -> Iterator[str]:
    """Yield a message for each section that divides a model in ways for which there are no adapters to write."""
    for name, key in PARALLEL.items():
        parts = section(user, name).get(key)
        if isinstance(parts, int) and parts > 1:
            yield f"{name}.{key} is {parts}, but a model is divided by ZeRO 3 alone; remove {name}"
    parts = user.get("sequence_parallel_size")
    if isinstance(parts, int) and parts > 1:
        yield f"sequence_parallel_size is {parts}, but rows are not divided; remove it"


def _messages(user: dict[str, JsonValue], study: StudyConfig) -> Iterator[str]:
    """Yield what contradicts the study file, then what DeepSpeed's schema does not take."""
    known = dict(user)
    if study.resources.training_workers is None:
        known = {key: value for key, value in user.items() if key not in BY_WORKERS}
    config: dict[str, JsonValue] = {}
    for training in _trainings(study):
        settings = TrainSettings(**training.model_dump(exclude={"share"}), dtype=_dtype(study, user), deepspeed=known)
        try:
            config = complete(settings, study.resources.training_workers or 1)
        except InputError as error:
            yield Problem.of(error, KEY).message
    if config:
        # Without "train_batch_size", so that DeepSpeed works it out for one worker.
        yield from _of_schema(config, user)


def _of_schema(config: dict[str, JsonValue], user: dict[str, JsonValue]) -> Iterator[str]:
    """Read a configuration as DeepSpeed does, again without a section that it does not take until all are read."""
    import_deepspeed()
    from deepspeed.runtime.config import DeepSpeedConfig

    for _ in range(MOST_SECTIONS):
        watched = _Watched(config)
        try:
            DeepSpeedConfig(watched)
        except ValidationError as error:
            yield from _of_section(error, watched.last)
        except Exception as error:
            # Whatever DeepSpeed raises about a value: TypeError, ValueError, its own class.
            yield f"DeepSpeed rejects it, at {watched.last}: {why_rejected(error)}"
        else:
            yield from _unknown(user, watched.keys_read)
            return
        if watched.last not in config:
            return
        config = {key: value for key, value in config.items() if key != watched.last}


def _of_section(error: ValidationError, last: str) -> Iterator[str]:
    """Yield a message for each wrong key of a section, the last one that was read."""
    for item in error.errors():
        path = [str(part) for part in item["loc"]]
        # Monitors are read together, and pydantic names the section itself.
        path = path if error.title == "DeepSpeedMonitorConfig" else [last, *path]
        key = ".".join(path)
        if item["type"] == "extra_forbidden":
            yield f"{key} is no key of DeepSpeed{_near(path[-1], _zero_keys()) if path[:-1] == [ZERO] else ''}"
        else:
            yield f"{key} is {item['input']!r}: {item['msg'].removeprefix('Input ')}"


def _unknown(user: dict[str, JsonValue], known: set[str]) -> Iterator[str]:
    """Yield a message for each key at the top that DeepSpeed never reads, and so would pass over in silence."""
    # What `complete` takes out of the user's configuration, and keys that are comments.
    known = known | {"sequence_parallel_size"}
    for key in user:
        if key not in known and not key.startswith(("_", "$", "#", "/")):
            yield f"{key} is no key of DeepSpeed{_near(key, known)}"


def _near(key: str, known: set[str]) -> str:
    similar = difflib.get_close_matches(key, sorted(known), n=1)
    return f"; did you mean {similar[0]}?" if similar else "; remove it"


def _zero_keys() -> set[str]:
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    return set(DeepSpeedZeroConfig.model_fields)


def _trainings(study: StudyConfig) -> list[Training]:
    trains_warmup = any(method.requires in ("influence", "gradients") for method in study.selection.methods)
    return [*([study.warmup] if trains_warmup else []), study.finetune]


def _dtype(study: StudyConfig, user: dict[str, JsonValue]) -> Any:
    """Return the model's dtype; where the cluster's machines decide it, the one that the configuration is for."""
    if study.model.dtype != "auto":
        return study.model.dtype
    is_low = any(section(user, key).get("enabled") is True for key in ("bf16", "torch_autocast"))
    return "bfloat16" if is_low else "float32"


class _Watched(dict[str, JsonValue]):
    """A configuration that remembers which keys were asked for: those that DeepSpeed knows."""

    def __init__(self, values: dict[str, JsonValue]) -> None:
        super().__init__(values)
        self.keys_read: set[str] = set()
        self.last = ""

    def __copy__(self) -> "_Watched":
        return self

    def __getitem__(self, key: str) -> JsonValue:
        self._note(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self._note(str(key))
        return super().__contains__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value, as `dict.get`."""
        self._note(key)
        return super().get(key, default)

    def keys(self) -> KeysView[str]:  # type: ignore[override]
        """Return a view whose membership tests are remembered too."""
        return KeysView(self)

    def _note(self, key: str) -> None:
        self.keys_read.add(key)
        self.last = key
