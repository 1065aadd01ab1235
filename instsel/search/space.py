"""From a point of the search space to the study of one trial."""

from typing import Any

from instsel.config.file import parse_study
from instsel.config.search import METHOD, ORDER, Point, Search
from instsel.config.study import StudyConfig
from instsel.errors import InputError

BUDGET = "selection.budget"
ESTIMATOR = "mixture.estimator"


def study_of(study: StudyConfig, point: Point) -> StudyConfig:
    """Return the study of a trial: the method that the point names, with the point's values in place of the study's.

    Args:
        study: the study file.
        point: key of the space -> value.

    Raises:
        InputError: the study would not be a valid one.
    """
    raw = raw_study_of(study, point)
    if study.evaluation.form_and_content:
        # Nothing of a search reads it, and it costs more than the losses that one reads.
        raw["evaluation"] = {**study.evaluation.model_dump(exclude_unset=True), "form_and_content": False}
    trial = parse_study(raw, "search.space")
    if len(trial.selection.budgets) > 1:
        raise InputError(f"search: a trial has one budget; write one as {BUDGET}, or several under search.space")
    return trial


def raw_study_of(study: StudyConfig, point: Point) -> dict[str, object]:
    """Return the same as the keys of a study file, those that the user set and those of the point."""
    raw = study.model_dump(exclude_unset=True)
    raw.pop("search", None)
    names = [method.name for method in study.selection.methods]
    name = point.get(METHOD, names[0])
    if name not in names:
        raise InputError(f"search.space.method: {name!r} is no method of the study; they are {', '.join(names)}")
    method = dict(raw["selection"]["methods"][names.index(name)])
    if (other := study.selection.methods[names.index(name)].refers_to) is not None:
        raise InputError(
            f"search.space.method: {name!r} refers to {other!r}, and a trial has one selection; leave it out"
        )
    # One training a trial: more seeds are for the study that follows.
    method |= {"name": name, "seeds": [method.get("seeds", [0])[0]]}
    if ORDER in point:
        method["order"] = point[ORDER]
    raw["selection"] = {**raw["selection"], "methods": [method]}
    if raw.get("mixture") and study.mixture and study.mixture.training is None:
        # Gamma is what trials share: its runs stay as the study has them, however a trial is trained.
        raw["mixture"] = {**raw["mixture"], "training": study.finetune.model_dump(exclude_unset=True)}
    for key, value in point.items():
        if key in (METHOD, ORDER):
            continue
        part, _, last = key.partition(".")
        raw[part] = {**(raw.get(part) or {}), last: value}
        if key == ESTIMATOR and study.mixture is not None:
            raw[part]["compare"] = [name for name in study.mixture.estimators if name != value]
    return raw


def check_space(study: StudyConfig, search: Search) -> None:
    """Try every choice of the space, with the others at their first, so that no trial fails on a key.

    Raises:
        InputError: a value cannot be.
    """
    first = {key: _values(values)[0] for key, values in search.space.items()}
    for key, values in search.space.items():
        for value in _values(values):
            if key == ESTIMATOR and (study.mixture is None or value not in study.mixture.estimators):
                raise InputError(
                    f"search.space: {ESTIMATOR} {value} is not run by the study; add it to mixture.compare"
                )
            study_of(study, {**first, key: value})


def _values(values: Any) -> list[Any]:
    return list(values) if isinstance(values, list) else [values.low, values.high]
