"""The sections of the page on form and content of gains, and on the headroom of targets."""

from instsel.report.facts import StudyFacts
from instsel.report.gains import gain_note, gain_targets, gain_text
from instsel.report.headroom import headroom_note, headroom_rows
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


def headroom_section(facts: StudyFacts) -> Section | None:
    """Show what training on rows that serve a target moves; None where the study did not try."""
    if not facts.headroom:
        return None
    head, *rows = headroom_rows(facts.headroom)
    cells = [[Cell(text, text) for text in row] for row in rows]
    return Section("headroom", "Headroom", [Table(head, cells, note=headroom_note(facts.confidence))])
