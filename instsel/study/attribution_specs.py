"""Which ways to take influence a study has: those that its methods read, and the one that its figures are by."""

from dataclasses import replace

from instsel.config.study import StudyConfig
from instsel.selection.methods import AnyMethod, AttributionSpec, Form, InfluenceMethod


def attribution_specs(study: StudyConfig) -> dict[str, AttributionSpec]:
    """The ways to take influence that the study's methods read as a matrix, by name."""
    part = study.selection
    read = [
        method for method in part.methods if isinstance(method, InfluenceMethod) and method.requires == "attribution"
    ]
    found = [method.influence(part.attribution, part.damping) for method in read]
    return {influence.name: influence for influence in found}


def metrics_spec(study: StudyConfig) -> AttributionSpec | None:
    """The influence by which it is said what selections serve; None where no method reads gradients.

    The study's own form if a method reads it, else another that is there, else the study's own, to be worked out.
    """
    part = study.selection
    if not any(isinstance(method, InfluenceMethod) for method in part.methods):
        return None
    ways = [way for way in attribution_specs(study).values() if way.average == "cosines"]
    own = AttributionSpec.of(part.attribution, part.damping)
    return next((way for way in ways if way.form == part.attribution), ways[0] if ways else own)


def method_spec(method: AnyMethod, form: Form, damping: float) -> AttributionSpec:
    """The influence on validation rows that goes with a method: its own, or of one that reads none, this form's."""
    if isinstance(method, InfluenceMethod):
        return replace(method.influence(form, damping), average="cosines")
    return AttributionSpec.of(form, damping)
