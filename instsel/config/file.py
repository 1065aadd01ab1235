"""Reading a study file: YAML, `--set` overrides, and errors that say which key is wrong and what it means."""

import io
import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.composer import MaxDepthExceededError
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

from instsel.config.schema import Location, locate, near_key, suggestion
from instsel.config.study import StudyConfig
from instsel.errors import InputError

MOST_VALUES = 100_000
MOST_LEVELS = 100
LONGEST_VALUE = 200
SELF_EXPLAINING = {"extra_forbidden", "missing", "value_error", "union_tag_invalid", "union_tag_not_found"}


class YamlError(InputError):
    """A text is not YAML."""


class _Constructor(SafeConstructor):
    """Build dicts, lists, texts and numbers and nothing else, once the whole document has been checked."""

    def construct_document(self, node: Node) -> Any:
        if _count_values(node, {}) > MOST_VALUES:
            raise InputError(f"with all its aliases (*name) it has more than {MOST_VALUES:,} values; write fewer")
        return super().construct_document(node)


def plain_values(text: str) -> Any:
    """Read YAML 1.2 as dicts, lists, texts and numbers.

    Raises:
        YamlError: the text is no YAML.
        InputError: a key is written twice or is no plain text, or there are too many values, or nested too deep.
    """
    loader = _safe_yaml()
    loader.Constructor = _Constructor
    loader.max_depth = MOST_LEVELS
    loader.composer.warn_double_anchors = False  # YAML allows an anchor to be defined again.
    try:
        return loader.load(text)
    except (MaxDepthExceededError, RecursionError) as error:
        raise InputError("its values are nested too deep") from error
    # ruamel.yaml raises the last two for "%YAML 1.3", "0x_" and a date such as 2024-13-01.
    except (YAMLError, AssertionError, ValueError) as error:
        raise YamlError(str(error)) from error


def dump_yaml(values: Any) -> str:
    """Write dicts, lists, texts and numbers as YAML 1.2, keys in their order."""
    dumper: Any = _safe_yaml()
    dumper.default_flow_style = False
    dumper.sort_base_mapping_type_on_output = False
    stream = io.StringIO()
    dumper.dump(values, stream)
    return stream.getvalue()


def _safe_yaml() -> YAML:
    # In Python alone: the C parser, used where it is installed, does not look at `max_depth`.
    return YAML(typ="safe", pure=True)


def _count_values(node: Node, counts: dict[int, int]) -> int:
    """Count the values of a node, those that aliases repeat each time, and check the keys of its mappings.

    Raises:
        InputError: a key is written twice or is no plain text.
        RecursionError: an alias is part of what it names.
    """
    if isinstance(node, ScalarNode):
        return 1
    if id(node) not in counts:
        if isinstance(node, MappingNode):
            _check_keys(node)
            children = [part for pair in node.value for part in pair]
        else:
            children = node.value
        counts[id(node)] = 1 + sum(_count_values(child, counts) for child in children)
    return counts[id(node)]


def _check_keys(node: MappingNode) -> None:
    """Refuse a key that is written twice: ruamel.yaml does not see it in a mapping that has a merge key (`<<`)."""
    seen = set()
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, ScalarNode):
            raise InputError(f"line {line}: a key is no plain text; put quotes around {{{{...}}}}")
        if (str(key.tag), key.value) in seen:
            raise InputError(f"line {line}: key {key.value!r} is written twice; keep one of them")
        seen.add((str(key.tag), key.value))


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
    except (YamlError, UnicodeDecodeError) as error:
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


def parse_study(raw: Mapping[str, object], origin: str) -> StudyConfig:
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


def _lines(error: ValidationError, raw: Mapping[str, object]) -> dict[str, str]:
    """A line for each wrong key, with what every member of a union says about it."""
    messages: dict[str, dict[str, tuple[ErrorDetails, Location]]] = {}
    for item in error.errors():
        location = locate(item["loc"], raw, missing=item["type"] == "missing")
        key = ".".join(str(part) for part in location.path)
        messages.setdefault(key, {})[_message(item, location)] = item, location
    lines = {}
    for key, said in messages.items():
        item, location = list(said.values())[-1]
        value = "" if item["type"] in SELF_EXPLAINING else f", not {_shown(item['input'])}"
        # A check over several keys names them itself.
        where = f"{key}: " if key else ""
        lines[key] = f"  {where}{' or '.join(said)}{value}" + (f" ({location.meaning})" if location.meaning else "")
    return lines


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]} ..."


def _message(item: ErrorDetails, location: Location) -> str:
    context = item.get("ctx", {})
    if item["type"] == "extra_forbidden":
        near = near_key(location)
        return f"unknown key; did you mean {near}?" if near else "unknown key; remove it or correct its spelling"
    if item["type"] == "missing":
        return "is missing; write it"
    if item["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return "should hold keys with values"
    if item["type"] == "bool_type":
        return "should be true or false"
    if item["type"] == "union_tag_invalid":
        known = re.findall(r"'([^']*)'", context["expected_tags"])
        kind = context["discriminator"].strip("'")
        hint = suggestion(context["tag"], known)
        listed = f"{hint} Known are" if hint else "; known are"
        return f"the {kind} {context['tag']!r} is unknown{listed} {context['expected_tags']}"
    if item["type"] == "union_tag_not_found":
        return f"has no key {context['discriminator']}; write it"
    return str(item["msg"]).removeprefix("Value error, ").removeprefix("Input ")


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
    except InputError as error:
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
