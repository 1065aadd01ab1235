"""Stage *report*: what every other stage left, as summary.json, report.md and report.html."""

from importlib.metadata import version

from instsel import __version__
from instsel.config.study import StudyConfig
from instsel.report.collect import measure
from instsel.report.html import write_into_study
from instsel.report.record import StudyRecord
from instsel.study.graph import Graph

PACKAGES = ["torch", "transformers", "peft", "ray", "deepspeed"]


def run(study: StudyConfig, graph: Graph) -> None:
    """Write the reports."""
    graph.report.start()
    record = StudyRecord(study.out)
    versions = {"instsel": __version__, **{name: version(name) for name in PACKAGES}}
    write_into_study(record, measure(record, versions, graph.report.fingerprint))
    graph.report.commit({})
