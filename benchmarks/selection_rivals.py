"""Selectors beside other ways to the same picks: facility location beside its libraries, BIDS beside its plain loop."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from statistics import median

import numpy as np

from benchmarks.selection_pools import clusters, make_pool
from benchmarks.timing import PeakMemory
from instsel.arrays import row_blocks
from instsel.report.markdown import markdown_table
from instsel.selection import bids, g2is, submodular

_NONE = "\N{EN DASH}"
_MODULES = {"submodlib-py": "submodlib", "apricot-select": "apricot"}

Picks = Callable[[np.ndarray, int], Sequence[int]]


def against(rows: int, dim: int, budget: int, rounds: int) -> str:
    """Facility location of cosines by instsel, submodlib and apricot, in turn: seconds and what the picks are worth."""
    contenders: dict[str, Picks] = {"instsel": _ours}
    rivals = {"submodlib-py": _submodlib, "apricot-select": _apricot}
    skipped = ""
    for package, picks in rivals.items():
        if find_spec(_MODULES[package]):
            contenders[f"{package} {version(package)}"] = picks
        else:
            skipped += f"- {package}: not measured, it is not installed (`pip install {package}`)\n"
    body = []
    for name, x in _points(rows, dim):
        seconds, chosen = _take_turns(contenders, x, budget, rounds)
        for contender, times in seconds.items():
            ratio = median(theirs / ours for theirs, ours in zip(times, seconds["instsel"], strict=True))
            common = len(set(chosen[contender]) & set(chosen["instsel"]))
            worth = f"{coverage(x, chosen[contender]):.4f}"
            timing = f"{median(times):.3f} ({min(times):.3f} to {max(times):.3f})"
            body.append([name, contender, timing, f"{ratio:.1f}", worth, f"{common} of {budget}"])
    header = ["points", "", "seconds (min to max)", "times instsel's", "objective", "picks in common"]
    text = f"{rows:,} x {dim}, {budget:,} picks; kernels are part of the time; 1 untimed round, {rounds} timed.\n\n"
    return text + markdown_table(header, body) + (f"\n{skipped}" if skipped else "")


def coverage(x: np.ndarray, picks: Sequence[int]) -> float:
    """Sum over all rows of the largest cosine to a pick, at least 0, in float64."""
    units = x.astype(np.float64)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    chosen = units[list(picks)].T
    blocks = row_blocks(len(units), chosen.shape[1] * units.itemsize)
    return float(sum((units[block] @ chosen).max(axis=1, initial=0).sum() for block in blocks))


def _points(rows: int, dim: int) -> Iterator[tuple[str, np.ndarray]]:
    random = np.random.default_rng(0)
    yield "normal", random.standard_normal((rows, dim), dtype=np.float32)
    yield "clusters", clusters(random, rows, dim)[0]


def _take_turns(
    contenders: dict[str, Picks], x: np.ndarray, budget: int, rounds: int
) -> tuple[dict[str, list[float]], dict[str, Sequence[int]]]:
    chosen = {name: picks(x, budget) for name, picks in contenders.items()}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, picks in contenders.items():
            start = time.perf_counter()
            picks(x, budget)
            seconds[name].append(time.perf_counter() - start)
            print(f"{name}: {seconds[name][-1]:.3f} s", file=sys.stderr, flush=True)
    return seconds, chosen


def _ours(x: np.ndarray, budget: int) -> Sequence[int]:
    picks: list[int] = submodular.facility_location(x, budget).indices.tolist()
    return picks


def _submodlib(x: np.ndarray, budget: int) -> Sequence[int]:
    from submodlib import FacilityLocationFunction

    function = FacilityLocationFunction(n=len(x), mode="dense", data=x, metric="cosine", separate_rep=False)
    greedy = function.maximize(
        budget=budget, optimizer="LazyGreedy", stopIfZeroGain=False, stopIfNegativeGain=False, verbose=False,
        show_progress=False,
    )  # fmt: skip
    return [int(row) for row, _ in greedy]


def _apricot(x: np.ndarray, budget: int) -> Sequence[int]:
    from apricot import FacilityLocationSelection
    from sklearn.metrics.pairwise import cosine_similarity

    # Its own metric "cosine" is another similarity; negative ones it does not allow.
    kernel = np.maximum(cosine_similarity(x), 0).astype(np.float64)
    fitted = FacilityLocationSelection(budget, metric="precomputed", optimizer="lazy").fit(kernel)
    return [int(row) for row in fitted.ranking]


def bids_against_plain(rows: int, columns: int, budget: int, steps: int) -> str:
    """BIDS to the end, and the first steps of the loop that looks at every row at every step."""
    attribution = make_pool("attribution", rows, validation=columns)["attribution"]
    start = time.perf_counter()
    selection = bids.select(attribution, budget)
    seconds = time.perf_counter() - start
    picks, plain = plain_bids(attribution, min(steps, budget))
    equal = sum(int(a == b) for a, b in zip(picks, selection.indices.tolist(), strict=False))
    whole = plain * len(selection)
    body = [
        ["instsel, all picks", f"{seconds:.2f} s"],
        [f"plain loop, a step (mean of the first {len(picks)})", f"{plain:.4f} s"],
        ["plain loop, all picks at that rate", f"{whole:,.0f} s ({whole / seconds:,.0f} times instsel's)"],
        ["picks equal on these steps", f"{equal} of {len(picks)}"],
    ]
    return f"{rows:,} x {columns}, {len(selection):,} picks.\n\n{markdown_table(['', 'BIDS'], body)}"


def plain_bids(attribution: np.ndarray, steps: int) -> tuple[list[int], float]:
    """Run Algorithm 1 of the paper word for word in float64, and return the picks and the seconds of a step."""
    standard = attribution.astype(np.float64)
    for column in range(standard.shape[1]):
        values = standard[:, column]
        values -= values.mean()
        values /= values.std()
    total, taken = np.zeros(standard.shape[1]), np.zeros(len(standard), dtype=bool)
    picks: list[int] = []
    start = time.perf_counter()
    for step in range(steps):
        mean = total / max(step, 1)
        best = np.empty(len(standard))
        for block in row_blocks(len(standard), total.nbytes, block_bytes=2**20):
            best[block] = (standard[block] - mean).max(axis=1)
        best[taken] = -np.inf
        picks.append(int(best.argmax()))
        taken[picks[-1]] = True
        total += standard[picks[-1]]
    return picks, (time.perf_counter() - start) / max(steps, 1)


def g2is_alone(rows: int, dim: int, budget: int, rounds: int) -> str:
    """G2IS on gradients that agree enough for it to walk."""
    pool = make_pool("gradients", rows, dim=dim)
    seconds = []
    with PeakMemory("cpu") as memory:
        for _ in range(rounds):
            start = time.perf_counter()
            selection = g2is.select(pool["train"], pool["validation"], budget)
            seconds.append(time.perf_counter() - start)
    peak = _NONE if memory.peak_bytes is None else f"{memory.peak_bytes / 2**30:.2f} GiB"
    cells = [f"{median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})", peak, f"{len(selection):,}"]
    header = ["", "seconds (min to max)", "memory beside the gradients", "picked"]
    return f"{rows:,} x {dim:,}, {budget:,} picks.\n\n{markdown_table(header, [['g2is', *cells]])}"
