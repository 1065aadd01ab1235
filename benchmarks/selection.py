"""How long every selector takes as the pool grows, and some of them beside other ways to the same picks.

    python -m benchmarks.selection [--rows 10000 100000 1000000] [--out DIR]
    python -m benchmarks.selection --against | --bids | --g2is

Pools are made up; nothing but instsel is needed, and matplotlib for the plot.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_info

from benchmarks import report, selection_growth, selection_rivals

_SHAPES = {"against": (5_000, 384, 500), "bids": (288_000, 350, 43_200), "g2is": (100_000, 2_048, 1_000)}
_TITLES = {
    "growth": "Selectors as the pool grows",
    "against": "Facility location beside other libraries",
    "bids": "BIDS beside the plain loop",
    "g2is": "G2IS",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measures what the arguments ask for, prints the report, and writes it where `--out` says."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = _parser().parse_args(arguments)
    options.rounds = options.rounds or (1 if options.what == "growth" else 3)
    text = f"{_heading(options.what, arguments)}\n{_measure(options)}"
    print(text)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / f"selection-{options.what}.md").write_text(text, encoding="utf-8")
    return 0


def _measure(options: argparse.Namespace) -> str:
    if options.what == "growth":
        return _growth(options)
    rows, columns, picks = _SHAPES[options.what]
    rows, columns = options.shape or (rows, columns)
    picks = options.budget or picks
    if options.what == "against":
        return selection_rivals.against(rows, columns, picks, options.rounds)
    if options.what == "bids":
        return selection_rivals.bids_against_plain(rows, columns, picks, options.steps)
    return selection_rivals.g2is_alone(rows, columns, picks, options.rounds)


def _growth(options: argparse.Namespace) -> str:
    sizes, budget = sorted(set(options.rows)), options.budget or 500
    grown = selection_growth.measure(selection_growth.SELECTORS, sizes, budget, options.rounds)
    text = (
        f"Seconds for {budget:,} picks, median of {options.rounds}. Fitted: slope of log seconds on log rows, beside "
        "the exponent of n in the stated time. Memory: highest at the largest size, less what the pool takes. "
        "Attribution has 64 columns, gradients 512, embeddings 384 in 100 tasks.\n\n"
    )
    text += selection_growth.table(selection_growth.SELECTORS, grown, sizes)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        try:
            selection_growth.plot(grown, options.out / "selection-growth.svg")
        except ImportError:
            print("no plot: matplotlib is not installed (pip install -e '.[bench]')", file=sys.stderr)
        else:
            text += "\n![seconds by rows](selection-growth.svg)\n"
    return text


def _heading(what: str, arguments: Sequence[str]) -> str:
    command = shlex.join(["python", "-m", "benchmarks.selection", *arguments]).replace(str(Path.home()), "~")
    threads = max((library["num_threads"] for library in threadpool_info()), default=1)
    facts = {**report.machine("cpu"), "command": f"`{command}`", "threads": str(threads)}
    return f"# {_TITLES[what]}\n\n{report.facts_list(facts)}"


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}; expected at least 1")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmarks.selection", formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__
    )
    what = parser.add_mutually_exclusive_group()
    add: dict[str, Any] = {"dest": "what", "action": "store_const"}
    what.add_argument("--against", const="against", help="facility location beside submodlib and apricot", **add)
    what.add_argument("--bids", const="bids", help="BIDS, and the first steps of the plain loop", **add)
    what.add_argument("--g2is", const="g2is", help="G2IS at 100,000 x 2,048", **add)
    parser.set_defaults(what="growth")
    parser.add_argument("--rows", type=_positive, nargs="+", default=[10_000, 100_000, 1_000_000], help="pool sizes")
    parser.add_argument("--shape", type=_positive, nargs=2, metavar=("ROWS", "COLUMNS"), help="for the other three")
    parser.add_argument("--budget", type=_positive, help="picks; 500, and for the others what they are known for")
    parser.add_argument("--rounds", type=_positive, help="timed rounds; 1, and for the others 3")
    parser.add_argument("--steps", type=_positive, default=50, help="steps of the plain loop")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the report, and the plot")
    return parser


if __name__ == "__main__":
    sys.exit(main())
