"""How the time of every selector grows with the pool."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.selection_pools import Pool, make_pool
from benchmarks.timing import PeakMemory
from instsel.report.markdown import markdown_table
from instsel.selection import (
    Selection,
    bids,
    bm25,
    g2is,
    ifd,
    less,
    longest,
    perplexity,
    random,
    rds,
    round_robin,
    rules,
    smart,
    stratified,
    submodular,
)

_NONE = "\N{EN DASH}"
_WARM_UP_ROWS = 200


@dataclass(frozen=True)
class Selector:
    """A selector and what it should cost.

    Attributes:
        name: as in a study file.
        reads: kind of pool, see `make_pool`.
        cost: time as its description has it: n rows, m validation rows, d columns, k picks, M tasks.
        exponent: of n in that.
        select: from a pool and a budget.
        most: rows above which it is not run.
    """

    name: str
    reads: str
    cost: str
    exponent: int
    select: Callable[[Pool, int], Selection]
    most: int | None = None


@dataclass
class Growth:
    """What a selector took, by the rows of the pool.

    Attributes:
        seconds: of every timed run.
        peak_bytes: highest memory of the runs beyond the pool; None where it is not known.
        picked: rows that came back.
    """

    seconds: dict[int, list[float]] = field(default_factory=dict)
    peak_bytes: dict[int, int | None] = field(default_factory=dict)
    picked: dict[int, int] = field(default_factory=dict)

    @property
    def exponent(self) -> float | None:
        """Slope of log seconds on log rows by least squares; None for fewer than two sizes."""
        if len(self.seconds) < 2:
            return None
        times = [median(values) for values in self.seconds.values()]
        return float(np.polyfit(np.log(list(self.seconds)), np.log(times), 1)[0])


SELECTORS = (
    Selector("random", "rows", "n log n", 1, lambda p, k: random.select(len(p["groups"]), k, seed=0)),
    Selector(
        "proportional", "rows", "n log n", 1,
        lambda p, k: stratified.select(p["groups"], k, shares="proportional", seed=0),
    ),
    Selector("equal", "rows", "n log n", 1, lambda p, k: stratified.select(p["groups"], k, shares="equal", seed=0)),
    Selector("longest", "losses", "n log n", 1, lambda p, k: longest.select(p["tokens"], k)),
    Selector("perplexity", "losses", "n log n", 1, lambda p, k: perplexity.select(p["loss"], k)),
    Selector("ifd", "losses", "n log n", 1, lambda p, k: ifd.select(p["loss"], p["alone"], k)),
    Selector(
        "bm25", "prompts", "n m", 1,
        lambda p, k: bm25.select(p["prompts"].tolist(), k, validation=p["wanted"].tolist()),
    ),
    Selector("less", "attribution", "n m", 1, lambda p, k: less.select(p["attribution"], k, subtasks=p["tasks"])),
    Selector("bids", "attribution", "(n + k) m", 1, lambda p, k: bids.select(p["attribution"], k)),
    Selector(
        "round_robin", "attribution", "n m", 1,
        lambda p, k: round_robin.select(p["attribution"], k, targets=p["tasks"]),
    ),
    Selector(
        "instance_max", "attribution", "n m", 1, lambda p, k: rules.select(p["attribution"], k, rule="instance_max")
    ),
    Selector(
        "task_max", "attribution", "n m", 1,
        lambda p, k: rules.select(p["attribution"], k, rule="task_max", tasks=p["tasks"]),
    ),
    Selector("sum", "attribution", "n m", 1, lambda p, k: rules.select(p["attribution"], k, rule="sum")),
    Selector("rds", "gradients", "n m d", 1, lambda p, k: rds.select(p["train"], p["validation"], k)),
    Selector("g2is", "gradients", "k n d", 1, lambda p, k: g2is.select(p["train"], p["validation"], k)),
    Selector(
        "facility_location", "embeddings", "n^2 d", 2,
        lambda p, k: submodular.facility_location(p["embeddings"], k), most=100_000,
    ),
    Selector(
        "facility_location, stochastic 0.1", "embeddings", "n^2 d", 2,
        lambda p, k: submodular.facility_location(p["embeddings"], k, stochastic=0.1), most=100_000,
    ),
    Selector("graph_cut", "embeddings", "k n d", 1, lambda p, k: submodular.graph_cut(p["embeddings"], k)),
    Selector("log_det", "embeddings", "k n d", 1, lambda p, k: submodular.log_det(p["embeddings"], k)),
    Selector("smart", "embeddings", "n^2 d / M", 2, lambda p, k: smart.select(p["embeddings"], p["tasks"], k)),
)  # fmt: skip


def measure(selectors: Sequence[Selector], sizes: Sequence[int], budget: int, rounds: int) -> dict[str, Growth]:
    """Run every selector on every size, the selectors that read one kind of pool on the same one.

    Each runs once untimed before, on a few rows: first calls load libraries and start threads.
    """
    grown = {selector.name: Growth() for selector in selectors}
    for pool, selector in _with_pools(selectors, _WARM_UP_ROWS):
        selector.select(pool, budget)
    for rows in sorted(sizes):
        for pool, selector in _with_pools(selectors, rows):
            growth = grown[selector.name]
            with PeakMemory("cpu") as memory:
                for _ in range(rounds):
                    start = time.perf_counter()
                    selection = selector.select(pool, budget)
                    growth.seconds.setdefault(rows, []).append(time.perf_counter() - start)
            growth.peak_bytes[rows], growth.picked[rows] = memory.peak_bytes, len(selection)
            print(f"{selector.name}, {rows:,} rows: {median(growth.seconds[rows]):.3g} s", file=sys.stderr, flush=True)
    return grown


def _with_pools(selectors: Sequence[Selector], rows: int) -> Iterator[tuple[Pool, Selector]]:
    able = [selector for selector in selectors if selector.most is None or rows <= selector.most]
    for kind in dict.fromkeys(selector.reads for selector in able):
        pool = make_pool(kind, rows)
        for selector in able:
            if selector.reads == kind:
                yield pool, selector


def table(selectors: Sequence[Selector], grown: Mapping[str, Growth], sizes: Sequence[int]) -> str:
    """Seconds by size, the fitted exponent beside the stated one, and the peak memory at the largest size run."""
    header = ["", "reads", *(f"{rows:,} rows" for rows in sizes), "fitted", "stated", "stated time", "memory", "picked"]
    return markdown_table(header, [_line(selector, grown[selector.name], sizes) for selector in selectors])


def _line(selector: Selector, growth: Growth, sizes: Sequence[int]) -> list[str]:
    seconds = [
        f"{median(growth.seconds[rows]):.3g} s" if rows in growth.seconds else f"above the cap of {selector.most:,}"
        for rows in sizes
    ]
    largest = max(growth.seconds, default=None)
    peak = None if largest is None else growth.peak_bytes[largest]
    return [
        selector.name,
        selector.reads,
        *seconds,
        _NONE if growth.exponent is None else f"{growth.exponent:.2f}",
        str(selector.exponent),
        selector.cost,
        _NONE if peak is None else f"{peak / 2**20:,.0f} MiB",
        _NONE if largest is None else f"{growth.picked[largest]:,}",
    ]


def plot(grown: Mapping[str, Growth], path: Path) -> None:
    """Draw seconds against rows, both on logarithmic axes, as SVG.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), layout="constrained")
    axes = figure.add_subplot()
    for number, (name, growth) in enumerate(grown.items()):
        times = [median(values) for values in growth.seconds.values()]
        axes.loglog(list(growth.seconds), times, marker="os^Dv"[number % 5], label=name, color=f"C{number % 10}")
    axes.set_xlabel("rows of the pool")
    axes.set_ylabel("seconds")
    axes.grid(visible=True, which="major", alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small")
    figure.savefig(path, format="svg")
