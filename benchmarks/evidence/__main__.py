"""Add a finished study to the ledger, and make the tables of docs/results.md from it.

    python -m benchmarks.evidence add STUDY_FOLDER NAME
    python -m benchmarks.evidence tables
    python -m benchmarks.evidence show NAME --without TARGET ...

`tables` writes between the lines `<!-- evidence: NAME -->` and `<!-- end of evidence -->` of docs/results.md, and
`show` prints those of an entry with other targets left out of means and verdicts.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.evidence.ledger import accuracy_of, add, headroom_of, losses_of
from instsel.report.comparison import LOSS_NOTE, accuracy_text, comparison_text
from instsel.report.headroom import headroom_report

LEDGER = Path(__file__).parent
PAGE = LEDGER.parents[1] / "docs" / "results.md"
MARK = re.compile(r"(<!-- evidence: ([\w.-]+) -->\n).*?(<!-- end of evidence -->)", re.DOTALL)


def tables(entry: Path, excluded: Sequence[str] | None = None) -> str:
    """Write the comparison of an entry as Markdown, below a heading of the second level; see `losses_of`."""
    accuracy, losses = accuracy_of(entry, excluded), losses_of(entry, excluded)
    parts = headroom_report(headroom_of(entry), losses.confidence)
    parts += accuracy_text(accuracy) if accuracy is not None else []
    parts += comparison_text(losses, "Held-out loss", LOSS_NOTE)
    text = "\n".join(part.rstrip("\n") + "\n" for part in parts)
    return re.sub(r"^## ", "### ", text, flags=re.MULTILINE)


def filled(page: str, ledger: Path) -> str:
    """Return a page whose marked parts are the tables of their entries."""
    return MARK.sub(lambda mark: f"{mark[1]}\n{tables(ledger / mark[2])}\n{mark[3]}", page)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    adding = commands.add_parser("add", help="add the runs of a finished study")
    adding.add_argument("study", help="its folder")
    adding.add_argument("name", help="of its entry")
    commands.add_parser("tables", help="make the tables of docs/results.md")
    showing = commands.add_parser("show", help="print the tables of an entry with other targets left out")
    showing.add_argument("name", help="of the entry")
    showing.add_argument("--without", nargs="*", default=[], help="targets that means and verdicts leave out")
    options = parser.parse_args()
    if options.command == "add":
        for name, lines in add(options.study, LEDGER / options.name).items():
            print(f"{name}: {lines:,} new lines")
    elif options.command == "show":
        print(tables(LEDGER / options.name, options.without))
    else:
        PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), LEDGER), encoding="utf-8")


if __name__ == "__main__":
    main()
