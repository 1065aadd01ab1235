"""Which influence a study needs: what its methods read, and the one that its metrics are by."""

from dataclasses import replace

from instsel.config.study import StudyConfig
from instsel.selection.base import AttributionSpec, Form, Method
from instsel.study.stage import StageKey


def attribution_specs(study: StudyConfig) -> dict[str, AttributionSpec]:
    """Return the influence that the study's methods read as a matrix, by name."""
    part = study.selection
    matrix_methods = (method for method in part.methods if method.requires == "influence")
    specs = (method.attribution_spec(part.attribution, part.damping) for method in matrix_methods)
    return {spec.name: spec for spec in specs if spec is not None}


def metrics_spec(study: StudyConfig) -> AttributionSpec | None:
    """Return the influence that the report's metrics use; None where no method reads gradients.

    It is the study's own form if a method reads it, else another that is there, else the study's own, to be computed.
    """
    part = study.selection
    of_methods = [method.attribution_spec(part.attribution, part.damping) for method in part.methods]
    read = [spec for spec in of_methods if spec is not None]
    if not read:
        return None
    specs = [spec for spec in attribution_specs(study).values() if spec.average == "cosines"]
    default = AttributionSpec.of(part.attribution, part.damping)
    if default.form == "contrast" and all(spec.form != "contrast" for spec in read):
        # The gradients that it takes are not there.
        default = replace(read[0], average="cosines")
    return next((spec for spec in specs if spec.form == part.attribution), specs[0] if specs else default)


def contrast_stages(spec: AttributionSpec | None) -> list[StageKey]:
    """Return the stage whose validation gradients a spec reads in place of those of *features*, if it does."""
    return [StageKey("contrast")] if spec is not None and spec.form == "contrast" else []


def method_spec(method: Method, form: Form, damping: float) -> AttributionSpec:
    """Return the influence on validation rows that goes with a method: what it reads, or this form's."""
    spec = method.attribution_spec(form, damping) or AttributionSpec.of(form, damping)
    return replace(spec, average="cosines")
