"""The base class of all parts of a study file."""

import re

from pydantic import BaseModel, ConfigDict

NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*$")


class StrictModel(BaseModel):
    """A part of the study file: rejects unknown keys and wrong types, immutable after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def usable_name(name: str) -> str:
    """Return `name` if it is valid as the name of a file and of a column.

    Raises:
        ValueError: it is not.
    """
    if not NAME.fullmatch(name):
        raise ValueError(f"name {name!r} is not usable; use letters, digits, '.', '_' and '-'")
    return name
