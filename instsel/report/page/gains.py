"""The section of the page on form and content of gains."""

from instsel.report.facts import StudyFacts
from instsel.report.gains import gain_note, gain_targets, gain_text
from instsel.report.page.parts import Cell, Section, Table


def gains_section(facts: StudyFacts) -> Section | None:
    """Show what each method's gain over the base model consists of; None where answers were not evaluated."""
    if not facts.gains:
        return None
    targets = gain_targets(facts)
    rows = []
    for method, by_target in facts.gains.items():
        for part in ("form", "content"):
            intervals = {target: getattr(gain, part) for target, gain in by_target.items()}
            cells = [
                Cell(gain_text(intervals[target]), intervals[target].difference) if target in intervals else Cell("")
                for target in targets
            ]
            rows.append([Cell(method, method, small=part), *cells])
    table = Table(["gain over base", *targets], rows, note=gain_note(facts))
    return Section("gains", "Form and content of the gains", [table])
