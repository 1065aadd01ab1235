"""What every part of a study file keeps to."""

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*$")


class Strict(BaseModel):
    """A part of the study file: unknown keys and wrong types are errors, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def without_password(place: str) -> str:
    """Return a path or URI that holds no password: it is written into manifests, logs and reports.

    Raises:
        ValueError: it does.
    """
    user, at, _ = place.partition("://")[2].partition("/")[0].rpartition("@")
    if at and ":" in user:
        raise ValueError("there is a password before the @; give keys by the environment of the store's client")
    return place


Place = Annotated[str, AfterValidator(without_password)]
"""A path or URI of a study file."""


def usable_name(name: str) -> str:
    """Return `name` if it can be the name of a file and of a column.

    Raises:
        ValueError: it cannot.
    """
    if not NAME.fullmatch(name):
        raise ValueError(f"name {name!r} is not usable; use letters, digits, '.', '_' and '-'")
    return name
