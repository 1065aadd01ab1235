"""A new selection from a finished study: its stored gradients and embeddings, another method, budget or targets."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from pydantic import JsonValue

from instsel.choice.influence import influence_matrix
from instsel.choice.metrics import SelectionMetrics, selection_metrics
from instsel.choice.output import write_rows
from instsel.choice.picks import PickRequest, make_picks
from instsel.config.file import override, parse_study, plain_values
from instsel.config.study import SelectionPart, StudyConfig
from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.study.attribution_specs import method_spec
from instsel.study.folder import MANIFEST, STUDY, read_study_entry
from instsel.study.reader import StudyReader
from instsel.study.results import SelectResult
from instsel.study.runs import runs_of

CONFIG = "config.json"
SELECTIONS = "selections"
NAME_LENGTH = 120
REFERENCES = ("lengths_of", "extra_for")
"""Options of a method that name an entry of the study."""


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


@dataclass(frozen=True)
class Reselection:
    """A selection made from a finished study.

    Attributes:
        name: Of the selection.
        folder: Where it is.
        result: What it is made of.
        influence: Name of the attribution spec that the metrics are by; None where the study has no gradients.
        metrics: Whom it serves; None where the study has no gradients.
    """

    name: str
    folder: Folder
    result: SelectResult
    influence: str | None = None
    metrics: SelectionMetrics | None = None

    def to_dict(self) -> dict[str, JsonValue]:
        """Return JSON values: the result, and beside it `influence` and `metrics` where there are metrics."""
        values = self.result.to_dict()
        if self.metrics is not None:
            values |= {"influence": self.influence, "metrics": asdict(self.metrics)}
        return values


def reselect(uri: str, request: SelectionRequest, log: Callable[[str], None]) -> Reselection:
    """Make a selection and write it into the study's folder, below `selections/`.

    Args:
        uri: Of the study folder.
        request: What to choose.
        log: Called with each text that the method warns of.

    Raises:
        InputError: there is no such study, the request is wrong, or the study lacks what the method needs.
    """
    study, reader = open_study(uri)
    requested = _with_request(study, request)
    part = requested.selection
    run = next(iter(runs_of(requested).values()))
    method = run.method
    picks = make_picks(PickRequest.of(requested, run), reader, log)
    influence, metrics = None, None
    if reader.has("features"):
        spec = method_spec(method, part.attribution, part.damping)
        by_name = selection_metrics(
            {method.name: picks.table["id"].to_pylist()}, influence_matrix(reader, spec), reader
        )
        influence, metrics = (spec.name, by_name[method.name]) if by_name else (None, None)
    folder = reader.study / SELECTIONS / method.name
    folder.remove()
    result = write_rows(reader.study / "prepare", folder, picks)
    reselection = Reselection(method.name, folder, result, influence, metrics)
    prepared = reader.manifest("prepare")["fingerprint"]
    manifest = {"selection": part.model_dump(), "prepare": prepared, "result": reselection.to_dict()}
    folder.write_json(MANIFEST, manifest)
    return reselection


def reselections(reader: StudyReader) -> dict[str, SelectionPart]:
    """Return the selections below `selections/` that are of the pool as it is now: name -> what was asked for."""
    parts = {}
    folder = reader.study / SELECTIONS
    for name in folder.names():
        if not (folder / name).exists(MANIFEST):
            continue
        manifest = (folder / name).read_json(MANIFEST)
        if manifest["prepare"] == reader.manifest("prepare")["fingerprint"]:
            parts[name] = SelectionPart.model_validate(manifest["selection"])
    return parts


def open_study(uri: str) -> tuple[StudyConfig, StudyReader]:
    """Open the study in a folder, as it was last run.

    Raises:
        InputError: the folder holds no study, or one that never ran.
    """
    folder = Folder.at(uri)
    if not folder.exists(STUDY):
        raise InputError(f"{uri} is no study folder; give the `out` of a study that has run")
    read_study_entry(folder)
    if not folder.exists(CONFIG):
        raise InputError(f"{uri} has no {CONFIG}; run the study again with this version, finished stages are kept")
    return parse_study(folder.read_json(CONFIG), f"{uri}/{CONFIG}"), StudyReader(folder)


def _with_request(study: StudyConfig, request: SelectionRequest) -> StudyConfig:
    """Return the study with the request as its only method, checked like a study file."""
    try:
        budget = plain_values(request.budget)
    except InputError as error:
        raise InputError(f"--budget {request.budget}: write a count (500) or a share (0.1)") from error
    if isinstance(budget, list):
        raise InputError(f"--budget {request.budget}: one selection is made, give one budget")
    method: dict[str, JsonValue] = {"method": request.method, "name": request.name or _default_name(request)}
    if request.targets:
        method["targets"] = [*request.targets]
    if request.attribution:
        method["attribution"] = request.attribution
    for option in request.options:
        override(method, option)
    raw = study.model_dump()
    methods = [method, *_referred(study, method)]
    raw["selection"] |= {"budget": budget, "unit": request.unit, "methods": methods}
    with_method = parse_study(raw, "this selection")
    if len(with_method.selection.methods[0].seeds) > 1:
        raise InputError("--set seeds: one selection is made, give one seed")
    return with_method


def _referred(study: StudyConfig, method: Mapping[str, JsonValue]) -> list[dict[str, JsonValue]]:
    """Return the entries of the study that a method of a request refers to.

    Raises:
        InputError: there is none of that name, or there are several selections of it.
    """
    entries: list[dict[str, JsonValue]] = []
    for key, name in ((key, method[key]) for key in REFERENCES if method.get(key) is not None):
        named = [entry.model_dump() for entry in study.selection.methods if entry.name == name]
        if not named:
            known = ", ".join(each.name for each in study.selection.methods)
            raise InputError(f"--set {key}={name}: the study has no selection of that name; it has {known}")
        if len(study.selection.budgets) > 1:
            raise InputError(f"--set {key}={name}: the study selects for several budgets; leave it out")
        entries += named
    return entries


def _default_name(request: SelectionRequest) -> str:
    """Name a selection by all that was asked for, so that another request has another name."""
    unit = "" if request.unit == "rows" else request.unit
    parts = [
        request.method,
        request.budget + unit,
        *(request.targets or ()),
        *([request.attribution] if request.attribution else []),
    ]
    name = "-".join([*parts, *(re.sub(r"[^A-Za-z0-9._-]", "", option) for option in request.options)])
    if len(name) > NAME_LENGTH:
        raise InputError(f"a name of all that is asked for would have {len(name)} letters; give one with --name")
    return name
