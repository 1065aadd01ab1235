"""Where an error of pydantic lies in a study file: the key as it is written, its meaning, and the keys beside it."""

import difflib
import types
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, Discriminator
from pydantic.fields import FieldInfo

from instsel.config.study import StudyConfig

MOST_LEVELS = 8
MOST_SUGGESTED = 3
SIMILAR, LEAST_SIMILAR = 0.8, 0.6


@dataclass(frozen=True)
class Location:
    """A place in a study file.

    Attributes:
        path: keys and positions in lists, as they are written.
        meaning: description of the key, or of the last one above it that is known; None at the top.
        keys: those that the mapping of the last key may have, sorted.
    """

    path: tuple[int | str, ...]
    meaning: str | None
    keys: list[str]


def locate(loc: Sequence[int | str], raw: Any, *, missing: bool) -> Location:
    """Follow an error's location through the schema and the values of a file.

    Args:
        loc: of pydantic, which also names members of unions.
        raw: the values of the file.
        missing: whether the last part of `loc` is a key that is not written.
    """
    path: list[int | str] = []
    annotations: list[Any] = [StudyConfig]
    meaning, keys = None, list[str]()
    for number, part in enumerate(loc, start=1):
        is_tagged, members = _members(annotations)
        if is_tagged and isinstance(part, str):
            # Of a union whose members a key tells apart, pydantic names the member first.
            annotations = [member for member in members if _has_tag(member, part)] or members
        elif isinstance(raw, dict) and (part in raw or (missing and number == len(loc))):
            fields = {name: field for model in _models(members) for name, field in model.model_fields.items()}
            keys, known = sorted(fields), fields.get(str(part))
            annotations = [known] if known is not None else [get_args(m)[1] for m in members if get_origin(m) is dict]
            meaning = known.description if known is not None and known.description else meaning
            path.append(part)
            raw = raw.get(part)
        elif isinstance(raw, list) and isinstance(part, int):
            annotations = [get_args(member)[0] for member in members if get_origin(member) is list]
            path.append(part)
            raw = raw[part]
    return Location(tuple(path), meaning, keys)


def near_key(location: Location) -> str | None:
    """Return the key that an unknown one was meant to be, probably: a similar one beside it, or the same elsewhere."""
    key = str(location.path[-1])
    for cutoff in (SIMILAR, LEAST_SIMILAR):
        similar = difflib.get_close_matches(key, location.keys, n=1, cutoff=cutoff)
        if similar:
            return similar[0]
        elsewhere = [path for path in _paths(StudyConfig, MOST_LEVELS) if path.endswith(f".{key}")]
        nearest = [path for path in elsewhere if path.count(".") == min(each.count(".") for each in elsewhere)]
        if 0 < len(nearest) <= MOST_SUGGESTED:
            return " or ".join(nearest)
    return None


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean NAME?" for a name that is similar to a known one, else ""."""
    similar = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {similar[0]}?" if similar else ""


def _members(annotations: Sequence[Any]) -> tuple[bool, list[Any]]:
    """Return whether a key tells the members of a union apart, and the members."""
    is_tagged, members = False, list[Any]()
    for annotation in annotations:
        if isinstance(annotation, FieldInfo):
            tagged, inner = annotation.discriminator is not None, [annotation.annotation]
            tagged |= _is_tagging(annotation.metadata)
        elif get_origin(annotation) is Annotated:
            tagged, inner = _is_tagging(annotation.__metadata__), [get_args(annotation)[0]]
        elif get_origin(annotation) in (Union, types.UnionType):
            tagged, inner = False, list(get_args(annotation))
        else:
            members.append(annotation)
            continue
        below, inner_members = _members(inner)
        is_tagged |= tagged or below
        members += inner_members
    return is_tagged, members


def _is_tagging(metadata: Iterable[Any]) -> bool:
    return any(
        isinstance(item, Discriminator) or (isinstance(item, FieldInfo) and item.discriminator is not None)
        for item in metadata
    )


def _has_tag(member: Any, tag: str) -> bool:
    literals = (field.annotation for model in _models([member]) for field in model.model_fields.values())
    return any(get_origin(literal) is Literal and get_args(literal) == (tag,) for literal in literals)


def _models(members: Iterable[Any]) -> list[type[BaseModel]]:
    return [member for member in members if isinstance(member, type) and issubclass(member, BaseModel)]


def _paths(model: type[BaseModel], levels: int) -> Iterator[str]:
    """Yield the keys of a schema that lie in mappings alone, with dots: `finetune.epochs`."""
    for name, field in model.model_fields.items():
        yield name
        for inner in _models(_members([field])[1]) if levels else ():
            yield from (f"{name}.{path}" for path in _paths(inner, levels - 1))
