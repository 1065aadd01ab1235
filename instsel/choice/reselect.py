"""A new selection from a finished study: its stored gradients and embeddings, another method, budget or targets."""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from instsel.choice.budget import Budget
from instsel.choice.influence import influence_matrix
from instsel.choice.metrics import figures
from instsel.choice.output import write_rows
from instsel.choice.picks import make_picks
from instsel.config.file import override, parse_study, plain_values
from instsel.config.study import SelectionPart, StudyConfig
from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.study.attribution_specs import method_spec
from instsel.study.folder import MANIFEST, STUDY
from instsel.study.reader import StudyReader

CONFIG = "config.json"
SELECTIONS = "selections"
MOST_LETTERS = 120


@dataclass(frozen=True)
class SelectionRequest:
    """What a person asks for.

    Attributes:
        method: name of the method.
        budget: a count or a share, as written.
        unit: of the budget, "rows" or "tokens".
        targets: to choose for; None for all.
        options: `key=value` of the method.
        attribution: form of the influence; None for the study's own.
        name: of the selection; by default all of the above.
    """

    method: str
    budget: str
    unit: str = "rows"
    targets: Sequence[str] | None = None
    options: Sequence[str] = ()
    attribution: str | None = None
    name: str | None = None


def reselect(place: str, wish: SelectionRequest, say: Callable[[str], None]) -> tuple[Folder, dict[str, Any]]:
    """Make a selection and write it into the study's folder, below `selections/`.

    Args:
        place: folder of the study.
        wish: what to choose.
        say: is told what the method warns of.

    Returns:
        The folder of the selection, and what it is made of: name, rows, tokens, sources, tasks, and figures where the
        study has gradients.

    Raises:
        InputError: there is no such study, the wish is wrong, or the study lacks what the method reads.
    """
    study, reader = open_study(place)
    part = _asked(study, wish).selection
    method = part.methods[0]
    budget = Budget(part.budget, part.unit)
    picks, kept = make_picks(
        method, method.seeds[0], budget, part.attribution, part.damping, reader, say, study.mixture
    )
    served = {}
    if reader.has("features"):
        way = method_spec(method, part.attribution, part.damping)
        found = figures({method.name: picks["id"].to_pylist()}, influence_matrix(reader, way), reader)
        served = {"influence": way.name, "figures": asdict(found[method.name])} if found else {}
    out = reader.study / SELECTIONS / method.name
    out.remove()
    result = {**write_rows(reader.study / "prepare", out, picks), **served, **kept}
    made_from = reader.manifest("prepare")["fingerprint"]
    out.write_json(MANIFEST, {"selection": part.model_dump(), "prepare": made_from, "result": result})
    return out, {"name": method.name, **result}


def reselections(reader: StudyReader) -> dict[str, SelectionPart]:
    """Selections that were made anew from the pool as it is now: name -> what was asked for."""
    found = {}
    folder = reader.study / SELECTIONS
    for name in folder.names():
        if not (folder / name).exists(MANIFEST):
            continue
        manifest = (folder / name).read_json(MANIFEST)
        if manifest["prepare"] == reader.manifest("prepare")["fingerprint"]:
            found[name] = SelectionPart.model_validate(manifest["selection"])
    return found


def open_study(place: str) -> tuple[StudyConfig, StudyReader]:
    """The study in a folder, as it was last run.

    Raises:
        InputError: the folder holds no study, or one that never ran.
    """
    folder = Folder.at(place)
    if not folder.exists(STUDY):
        raise InputError(f"{place} is no study folder; give the `out` of a study that has run")
    if not folder.exists(CONFIG):
        raise InputError(f"{place} has no {CONFIG}; run the study again with this version, finished stages are kept")
    return parse_study(folder.read_json(CONFIG), f"{place}/{CONFIG}"), StudyReader(folder)


def _asked(study: StudyConfig, wish: SelectionRequest) -> StudyConfig:
    """The study with the wish as its only method, checked like a study file."""
    try:
        budget = plain_values(wish.budget)
    except InputError as error:
        raise InputError(f"--budget {wish.budget}: write a count (500) or a share (0.1)") from error
    method: dict[str, Any] = {"method": wish.method, "name": wish.name or _default_name(wish)}
    method |= {"targets": list(wish.targets)} if wish.targets else {}
    method |= {"attribution": wish.attribution} if wish.attribution else {}
    for option in wish.options:
        override(method, option)
    raw = study.model_dump()
    raw["selection"] |= {"budget": budget, "unit": wish.unit, "methods": [method]}
    asked = parse_study(raw, "this selection")
    if len(asked.selection.methods[0].seeds) > 1:
        raise InputError("--set seeds: one selection is made, give one seed")
    return asked


def _default_name(wish: SelectionRequest) -> str:
    """What was asked for, so that another wish has another name."""
    unit = "" if wish.unit == "rows" else wish.unit
    parts = [wish.method, wish.budget + unit, *(wish.targets or ()), *([wish.attribution] if wish.attribution else [])]
    name = "-".join([*parts, *(re.sub(r"[^A-Za-z0-9._-]", "", option) for option in wish.options)])
    if len(name) > MOST_LETTERS:
        raise InputError(f"a name of all that is asked for would have {len(name)} letters; give one with --name")
    return name
