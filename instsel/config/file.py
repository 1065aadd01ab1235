"""Reading a study file: YAML, `--set` overrides, and errors that say which key is wrong and what it means."""

import re
import typing
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from instsel.config.study import StudyConfig
from instsel.errors import InputError

MERGE = "tag:yaml.org,2002:merge"
MOST_VALUES = 100_000
LONGEST_VALUE = 200
OWN_WORDS = {"extra_forbidden", "missing", "value_error"}


class _Loader(yaml.SafeLoader):
    """YAML as people expect it: 5e-4 is a number, and a key written twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == MERGE:
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                raise InputError(
                    f"line {key_node.start_mark.line + 1}: a key is no plain text; put quotes around {{{{...}}}}"
                )
            key = self.construct_object(key_node)
            if key in seen:
                raise InputError(f"line {key_node.start_mark.line + 1}: key {key!r} is written twice; keep one of them")
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def plain_values(text: str) -> Any:
    """YAML as dicts, lists, texts and numbers: the loader is a SafeLoader and builds nothing else.

    Raises:
        yaml.YAMLError: the text is no YAML.
        InputError: a key is written twice or is no plain text, or there are too many values, or nested too deep.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _size(node, {}) > MOST_VALUES:
            raise InputError(f"with all its aliases (*name) it has more than {MOST_VALUES:,} values; write fewer")
        return loader.construct_document(node)
    except RecursionError as error:
        raise InputError("its values are nested too deep") from error
    finally:
        loader.dispose()


def _size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Values of a node, those that aliases repeat counted each time.

    Raises:
        RecursionError: an alias stands within what it names.
    """
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in sizes:
        children = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        sizes[id(node)] = 1 + sum(_size(child, sizes) for child in children)
    return sizes[id(node)]


def load_study(path: str | Path, overrides: typing.Sequence[str] = ()) -> StudyConfig:
    """Read and check a study file.

    Args:
        path: of the YAML file; a URI in a text.
        overrides: `a.b=value` strings; the value is YAML, list items are reached by number (`pool.0.path=x`).

    Raises:
        InputError: the file is missing or broken, or a key is unknown, missing or of the wrong type.
    """
    text = read_study(path)
    try:
        raw = plain_values(text.decode())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not readable YAML: {error}") from error
    except InputError as error:
        raise InputError(f"{path}, {error}") from error
    if not isinstance(raw, dict):
        raise InputError(f"{path} holds no keys; a study file starts with `name:`, `out:`, `model:`, `pool:`")
    for setting in overrides:
        override(raw, setting)
    return parse_study(raw, str(path))


def read_study(path: str | Path) -> bytes:
    """A study file as it is written, at a path or, in a text, a URI.

    Raises:
        InputError: there is no such file, or it cannot be read.
        StudyError: it is behind s3://, and the store stayed away.
    """
    if "://" in str(path):
        from instsel.io.store import Folder

        try:
            whole = Folder.at(path)
            if whole.parent.is_file(whole.name):
                return whole.parent.read(whole.name)
        except OSError as error:
            raise InputError(f"study file {path} cannot be read: {error}") from error
        raise InputError(f"study file {path} does not exist; give the place of a YAML file")
    path = Path(path).expanduser()
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"study file {path} {what}; give the path of a YAML file")
    return path.read_bytes()


def parse_study(raw: dict[str, Any], origin: str) -> StudyConfig:
    """Check a study given as a dict; `origin` names it in errors.

    Raises:
        InputError: listing every wrong key with its meaning.
    """
    try:
        return StudyConfig.model_validate(raw)
    except ValidationError as error:
        lines = _lines(error, raw)
        count = "a wrong key" if len(lines) == 1 else f"{len(lines)} wrong keys"
        raise InputError(f"{origin} has {count}:\n" + "\n".join(lines.values())) from error


def _lines(error: ValidationError, raw: dict[str, Any]) -> dict[str, str]:
    """A line for each wrong key, with what every member of a union says about it."""
    said: dict[tuple[int | str, ...], dict[str, Any]] = {}
    for item in error.errors():
        said.setdefault(_written(item["loc"], raw, missing=item["type"] == "missing"), {})[_message(item)] = item
    lines = {}
    for place, messages in said.items():
        key = ".".join(str(part) for part in place)
        last = list(messages.values())[-1]
        value = "" if last["type"] in OWN_WORDS else f", not {_shown(last['input'])}"
        meaning = _meaning(StudyConfig, [str(part) for part in place])
        # A check over several keys names them itself.
        where = f"{key}: " if key else ""
        lines[key] = f"  {where}{' or '.join(messages)}{value}" + (f" ({meaning})" if meaning else "")
    return lines


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]} ..."


def _message(item: Any) -> str:
    if item["type"] == "extra_forbidden":
        return "unknown key; remove it or correct its spelling"
    if item["type"] == "missing":
        return "is missing; write it"
    return item["msg"].removeprefix("Value error, ").removeprefix("Input ")


def _written(loc: tuple[int | str, ...], raw: Any, *, missing: bool) -> tuple[int | str, ...]:
    """The parts of an error's place that stand in the file, without pydantic's names for members of unions."""
    place: list[int | str] = []
    for number, part in enumerate(loc, start=1):
        if isinstance(raw, dict) and (part in raw or (missing and number == len(loc))):
            place.append(part)
            raw = raw.get(part)
        elif isinstance(raw, list) and isinstance(part, int):
            place.append(part)
            raw = raw[part]
    return tuple(place)


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


def override(raw: dict[str, Any], setting: str) -> None:
    """Set a key of a study given as a dict: `a.b=value`, the value YAML, list items by number.

    Raises:
        InputError: it is not written so, or what is above the key holds no keys.
    """
    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise InputError(f"--set {setting}: write it as key=value, for instance selection.budget=0.05")
    try:
        value = plain_values(text)
    except (yaml.YAMLError, InputError) as error:
        raise InputError(f"--set {setting}: the value is not readable YAML: {error}") from error
    *parents, last = key.split(".")
    node: Any = raw
    for part in parents:
        node = _step(node, part, setting)
    if isinstance(node, list):
        node[_position(node, last, setting)] = value
        return
    if not isinstance(node, dict):
        raise InputError(f"--set {setting}: the key above {last!r} holds a value, not keys")
    node[last] = value


def _step(node: Any, part: str, override: str) -> Any:
    if isinstance(node, list):
        return node[_position(node, part, override)]
    if not isinstance(node, dict):
        raise InputError(f"--set {override}: the key above {part!r} holds a value, not keys")
    return node.setdefault(part, {})


def _position(node: list[Any], part: str, override: str) -> int:
    if not part.isdecimal() or int(part) >= len(node):
        raise InputError(f"--set {override}: {part!r} is no place in a list of {len(node)}; places count from 0")
    return int(part)
