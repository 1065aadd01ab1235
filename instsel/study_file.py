"""Reading a study file: YAML, `--set` overrides, and errors that say which key is wrong and what it means."""

import re
import typing
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from instsel.config import StudyConfig
from instsel.errors import InputError


class _Loader(yaml.SafeLoader):
    """YAML as people expect it: 5e-4 is a number, and a key written twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise InputError(f"line {key_node.start_mark.line + 1}: key {key!r} is written twice; keep one of them")
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def load_study(path: str | Path, overrides: typing.Sequence[str] = ()) -> StudyConfig:
    """Read and check a study file.

    Args:
        path: the YAML file.
        overrides: `a.b=value` strings; the value is YAML, list items are reached by number (`pool.0.path=x`).

    Raises:
        InputError: the file is missing or broken, or a key is unknown, missing or of the wrong type.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise InputError(f"study file {path} does not exist; give the path of a YAML file")
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - _Loader is a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not readable YAML: {error}") from error
    except InputError as error:
        raise InputError(f"{path}, {error}") from error
    if not isinstance(raw, dict):
        raise InputError(f"{path} holds no keys; a study file starts with `name:`, `out:`, `model:`, `pool:`")
    for override in overrides:
        _override(raw, override)
    return parse_study(raw, str(path))


def parse_study(raw: dict[str, Any], origin: str) -> StudyConfig:
    """Check a study given as a dict; `origin` names it in errors.

    Raises:
        InputError: listing every wrong key with its meaning.
    """
    try:
        return StudyConfig.model_validate(raw)
    except ValidationError as error:
        raise InputError(f"{origin} has {_count(error)}:\n" + "\n".join(_lines(error))) from error


def _count(error: ValidationError) -> str:
    return "a wrong key" if error.error_count() == 1 else f"{error.error_count()} wrong keys"


def _lines(error: ValidationError) -> list[str]:
    lines = []
    for item in error.errors():
        place = [part for part in item["loc"] if part not in ("random", "less", "bids", "int", "float", "list[str]")]
        key = ".".join(str(part) for part in place) or "study"
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = "unknown key; remove it or correct its spelling"
        elif item["type"] == "missing":
            message = "is missing; write it"
        elif item["type"] != "value_error":
            message = f"{message}, not {item['input']!r}"
        meaning = _meaning(StudyConfig, [str(part) for part in place])
        lines.append(f"  {key}: {message}" + (f" ({meaning})" if meaning else ""))
    return list(dict.fromkeys(lines))


def _meaning(model: type[BaseModel], place: list[str]) -> str | None:
    """Description of the field that `place` leads to, through lists, dicts and unions of models."""
    if not place or place[0] not in model.model_fields:
        return None
    field = model.model_fields[place[0]]
    rest = [part for part in place[1:] if not part.isdigit()]
    if not rest:
        return field.description
    found = (_meaning(inner, rest[skip:]) for inner in _models(field.annotation) for skip in range(len(rest)))
    return next((meaning for meaning in found if meaning), field.description)


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in typing.get_args(annotation) for model in _models(inner)]


def _override(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"--set {override}: write it as key=value, for instance selection.budget=0.05")
    value = yaml.load(text, _Loader)  # noqa: S506 - _Loader is a SafeLoader
    *parents, last = key.split(".")
    node: Any = raw
    for part in parents:
        node = _step(node, part, override)
    if isinstance(node, list):
        node[_position(node, last, override)] = value
        return
    if not isinstance(node, dict):
        raise InputError(f"--set {override}: the key above {last!r} holds a value, not keys")
    node[last] = value


def _step(node: Any, part: str, override: str) -> Any:
    if isinstance(node, list):
        return node[_position(node, part, override)]
    if not isinstance(node, dict):
        raise InputError(f"--set {override}: the key above {part!r} holds a value, not keys")
    return node.setdefault(part, {})


def _position(node: list[Any], part: str, override: str) -> int:
    if not part.isdigit() or int(part) >= len(node):
        raise InputError(f"--set {override}: {part!r} is no place in a list of {len(node)}; places count from 0")
    return int(part)
