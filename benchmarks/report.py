"""The benchmark's Markdown report."""

import os
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

import torch

from benchmarks.actors import Scaling
from benchmarks.cosines import SketchError, Spread
from benchmarks.timing import Timing
from instsel.report.markdown import markdown_table

_NONE = "\N{EN DASH}"


def machine(device: str) -> dict[str, str]:
    """Return processor, cores, memory, GPU and versions of what the numbers depend on."""
    facts = {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "processor": f"{_processor()}, {os.cpu_count()} cores, {_memory()}",
    }
    if device == "cuda":
        gpu = torch.cuda.get_device_properties(0)
        facts["GPU"] = f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
    packages = ("torch", "transformers", "peft", "numpy")
    facts["versions"] = ", ".join([f"Python {platform.python_version()}", *(f"{n} {_version(n)}" for n in packages)])
    return facts


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = fields.get("model name") or platform.processor() or platform.machine()
    # Virtual machines hide the name of the model, but not its family and number.
    known = [f"{key} {fields[key]}" for key in ("cpu family", "model") if key in fields]
    return f"{name} ({', '.join(known)})" if known else name


def _memory() -> str:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return "memory unknown"
    return f"{size / 2**30:.0f} GiB memory"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def facts_list(facts: Mapping[str, str]) -> str:
    """Write a bullet a fact."""
    return "".join(f"- {name}: {value}\n" for name, value in facts.items())


def speed_table(names: Sequence[str], timings: Mapping[str, Timing], skipped: Mapping[str, str]) -> str:
    """Throughput, ratio to the plain steps and peak memory of each contender, then what each does or why it did not."""
    header = ["", "rows", "tokens/s (min to max)", "/ fp32 step", "/ bf16 step", "peak memory"]
    body, notes = [], {}
    for name in names:
        if name in skipped:
            body.append([name, *[_NONE] * 5])
            notes[name] = f"not measured: {skipped[name]}"
            continue
        timing = timings[name]
        ratios = [_ratio(timing, timings.get(step)) for step in ("step-fp32", "step-bf16")]
        body.append([name, str(timing.contender.rows), rate(timing.rates), *ratios, _size(timing.peak_bytes)])
        notes[name] = timing.contender.what
    return f"{markdown_table(header, body)}\n{facts_list(notes)}"


def _ratio(timing: Timing, step: Timing | None) -> str:
    return _NONE if step is None else f"{timing.ratio(step):.2f}"


def _size(size: int | None) -> str:
    return _NONE if size is None else f"{size / 2**20:,.0f} MiB"


def rate(rates: Sequence[float]) -> str:
    """Median, and the range."""
    digits = 0 if min(rates) >= 1000 else 1
    middle, low, high = (f"{value:,.{digits}f}" for value in (median(rates), min(rates), max(rates)))
    return f"{middle} ({low} to {high})"


def sketch_table(errors: Sequence[SketchError]) -> str:
    """Errors of sketched cosines beside the bar of 1 / sqrt(d)."""
    seeds = errors[0].seeds
    kinds = [f"{error}, {which}" for which in (f"{seeds} seeds", "seed 0") for error in ("RMSE", "mean error", "max")]
    body = [
        [
            error.kind,
            str(error.dim),
            f"{error.dim**-0.5:.4f}",
            *_cells(error.over_seeds),
            *_cells(error.default_seed),
        ]
        for error in errors
    ]
    return markdown_table(["", "d", "1/sqrt(d)", *kinds], body)


def _cells(spread: Spread) -> list[str]:
    return [f"{spread.rms:.4f}", f"{spread.mean:+.4f}", f"{spread.largest:.4f}"]


def bf16_table(differences: Mapping[str, Spread]) -> str:
    """Differences of cosines between bf16 and fp32."""
    body = [[kind, f"{spread.largest:.4f}", f"{spread.rms:.4f}"] for kind, spread in differences.items()]
    return markdown_table(["cosine of", "largest difference", "RMS difference"], body)


def scaling_table(scaling: Scaling) -> str:
    """One process against two, beside the bar of 1.6."""
    body = [
        ["tokens/s", rate(scaling.alone), rate(scaling.together)],
        ["ratio (at least 1.6)", "1", f"{scaling.ratio:.2f}"],
    ]
    return markdown_table(["", "one process", "two processes"], body)
