"""A new selection from a finished study: its stored gradients and embeddings, another method, budget or targets."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import yaml

from instsel.choice.budget import Budget
from instsel.choice.figures import figures
from instsel.choice.gradients import influence_matrix
from instsel.choice.inputs import Inputs
from instsel.choice.picks import make_picks
from instsel.choice.rows import write_rows
from instsel.config import StudyConfig
from instsel.errors import InputError
from instsel.methods import AnyMethod, Influence
from instsel.storage import Folder
from instsel.strict import usable_name
from instsel.study import MANIFEST, STUDY
from instsel.study_file import override, parse_study

CONFIG = "config.json"
SELECTIONS = "selections"


@dataclass(frozen=True)
class Wish:
    """What a person asks for.

    Attributes:
        method: name of the method.
        budget: a count or a share, as written.
        unit: of the budget, "rows" or "tokens".
        targets: to choose for; None for all.
        options: `key=value` of the method.
        attribution: form of the influence; None for the study's own.
        name: of the selection; by default method, budget and targets.
    """

    method: str
    budget: str
    unit: str = "rows"
    targets: Sequence[str] | None = None
    options: Sequence[str] = ()
    attribution: str | None = None
    name: str | None = None


def select_anew(place: str, wish: Wish, say: Callable[[str], None]) -> tuple[Folder, dict[str, Any]]:
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
    study, inputs = open_study(place)
    part = _asked(study, wish).selection
    method = part.methods[0]
    out = inputs.study / SELECTIONS / method.name
    picks = make_picks(
        method, method.seeds[0], Budget(part.budget, part.unit), part.attribution, part.damping, inputs, say
    )
    result = write_rows(inputs.study / "prepare", out, picks)
    if inputs.has("features"):
        way = method_influence(method, part.attribution, part.damping)
        found = figures({method.name: picks["id"].to_pylist()}, influence_matrix(inputs, way), inputs)
        result |= {"influence": way.name, "figures": asdict(found[method.name])} if found else {}
    out.write_json(MANIFEST, {"selection": part.model_dump(), "result": result})
    return out, {"name": method.name, **result}


def open_study(place: str) -> tuple[StudyConfig, Inputs]:
    """The study in a folder, as it was last run.

    Raises:
        InputError: the folder holds no study, or one that never ran.
    """
    folder = Folder.at(place)
    if not folder.exists(STUDY):
        raise InputError(f"{place} is no study folder; give the `out` of a study that has run")
    if not folder.exists(CONFIG):
        raise InputError(f"{place} has no {CONFIG}; run the study again with this version, finished stages are kept")
    return parse_study(folder.read_json(CONFIG), f"{place}/{CONFIG}"), Inputs(folder)


def method_influence(method: AnyMethod, form: Any, damping: float) -> Influence:
    """The influence by validation row that a method reads, or for one that reads none, that of the study."""
    own = method.influence(form, damping) if hasattr(method, "influence") else None
    form, damping = (own.form, own.damping or damping) if own else (form, damping)
    return Influence(form, damping if form == "fisher" else None)


def _asked(study: StudyConfig, wish: Wish) -> StudyConfig:
    """The study with the wish as its only method, checked like a study file."""
    budget = yaml.safe_load(wish.budget)
    parts = [wish.method, f"{wish.budget}{'' if wish.unit == 'rows' else wish.unit}", *(wish.targets or ())]
    method: dict[str, Any] = {"method": wish.method, "name": wish.name or "-".join(parts)}
    method |= {"targets": list(wish.targets)} if wish.targets else {}
    method |= {"attribution": wish.attribution} if wish.attribution else {}
    for option in wish.options:
        override(method, option)
    raw = study.model_dump()
    raw["selection"] |= {"budget": budget, "unit": wish.unit, "methods": [method]}
    try:
        usable_name(method["name"])
    except ValueError as error:
        raise InputError(f"--name: {error}") from error
    return parse_study(raw, "this selection")
