"""Stage *report*: what every other stage left, as summary.json, report.md and report.html."""

from importlib.metadata import version
from typing import TYPE_CHECKING

from instsel import __version__
from instsel.config.study import StudyConfig
from instsel.study.attribution_specs import attribution_specs, contrast_stages, metrics_spec
from instsel.study.results import ReportResult
from instsel.study.runs import BASE, runs_of
from instsel.study.stage import Finished, RunContext, Settings, Stage, StageKey

if TYPE_CHECKING:
    pass


PACKAGES = ["torch", "transformers", "peft", "ray", "deepspeed"]


class Report(Stage[ReportResult]):
    """Write the summary and the reports."""

    name = "report"
    position = 130
    version = 2
    per_trial = True
    is_goal = True

    def parents(self, config: StudyConfig, key: str) -> list[StageKey]:
        estimators = config.mixture.estimators if config.mixture is not None and _shows_gamma(config) else []
        return [
            *(StageKey("evaluate", name) for name in (BASE, *runs_of(config))),
            *(StageKey("accuracy", name) for name in (BASE, *runs_of(config)) if config.measured),
            *([StageKey("headroom")] if config.evaluation.headroom else []),
            *(StageKey("attribution", name) for name in attribution_specs(config)),
            *(StageKey("interaction", estimator) for estimator in estimators),
            *([StageKey("features")] if metrics_spec(config) else []),
            *contrast_stages(metrics_spec(config)),
        ]

    def settings(self, config: StudyConfig, key: str) -> Settings:
        spec = metrics_spec(config)
        return {
            "intervals": config.evaluation.model_dump(mode="json", include={"bootstrap_samples", "confidence", "seed"}),
            "runs": {name: run.arm for name, run in runs_of(config).items()},
            "metrics": spec.name if spec else None,
        }

    def run_key(self, context: RunContext, key: str) -> Finished[ReportResult]:
        from instsel.report.collect import measure
        from instsel.report.html import write_into_study
        from instsel.report.record import StudyRecord

        stage, record = context.stage(self.name), StudyRecord(context.config.out)
        versions = {"instsel": __version__, **{package: version(package) for package in PACKAGES}}
        write_into_study(record, measure(record, versions, stage.fingerprint))
        context.console.say(f"report: {stage.folder}/report.html, report.md")
        return Finished(ReportResult())


def _shows_gamma(config: StudyConfig) -> bool:
    """Return whether the report has all estimators: not where categories only stratify or order rows."""
    if config.mixture is None:
        return False
    methods = config.selection.methods
    constrained = any(method.mixture is not None for method in methods)
    others = any(method.needs_categories is not None and method.mixture is None for method in methods)
    return constrained or not others or bool(config.mixture.compare)
