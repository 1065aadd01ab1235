"""Seconds of a whole study of three methods on a toy model, which are nearly all the start of processes.

python -m benchmarks.startup                          the code here
python -m benchmarks.startup --against FOLDER         in turns with another checkout, such as one of an older version
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from tests.toy import write_toy_model, write_toy_study

HERE = Path(__file__).parents[1]
# One process a stage, and as many as the machine takes: what the tests have, and what a user has.
RESOURCES: dict[str, dict[str, Any]] = {
    "default": {},
    "one process a stage": {"trial_workers": 1, "actors": 1},
}


def run(code: Path, study: Path) -> tuple[float, float]:
    """Run a study from its file to its report; its wall-clock seconds, and CPU seconds of all its processes."""
    environment = {**os.environ, "PYTHONPATH": str(code), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", "from instsel.cli.app import app; app()", "run", str(study)]
    before, began = _cpu_seconds(), time.monotonic()
    subprocess.run(command, env=environment, check=True, capture_output=True, cwd=study.parent)
    return time.monotonic() - began, _cpu_seconds() - before


def stages(out: Path) -> dict[str, float]:
    """Seconds of each stage of a finished study, runs of a stage added up."""
    seconds: dict[str, float] = {}
    for path in sorted(out.rglob("manifest.json")):
        manifest = json.loads(path.read_text())
        name = manifest["stage"].partition("/")[0]
        seconds[name] = seconds.get(name, 0.0) + manifest["cost"]["seconds"]
    return seconds


def _cpu_seconds() -> float:
    """Of all processes of this machine that have run so far, where the system says so; else of our children."""
    stat = Path("/proc/stat")
    if not stat.is_file():
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime
    user, nice, system = map(int, stat.read_text().split()[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def main(arguments: Sequence[str] | None = None) -> None:
    """Time the codes in turns and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="top folder of another checkout")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each code")
    parser.add_argument("--resources", choices=list(RESOURCES), default="default", help="resources of the study")
    given = parser.parse_args(arguments)
    codes = {"here": HERE} | ({"against": given.against.resolve()} if given.against else {})
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in codes}
    last: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="instsel-startup-") as scratch:
        model = Path(scratch, "model")
        write_toy_model(model)
        for turn in range(given.rounds):
            for name, code in codes.items():
                folder = Path(scratch, f"{name}-{turn}")
                raw = write_toy_study(folder, model, resources=RESOURCES[given.resources])
                study = folder / "study.yaml"
                study.write_text(json.dumps(raw))  # Which is YAML.
                seconds[name].append(run(code, study))
                last[name] = stages(Path(raw["out"]))
    print(f"{os.cpu_count()} CPUs; resources: {given.resources}\n")
    print("| code | seconds | CPU seconds | " + " | ".join(last["here"]) + " |")
    print("| --- " * (3 + len(last["here"])) + "|")
    for name, taken in seconds.items():
        wall, cpu = (" ".join(f"{value:.1f}" for value in values) for values in zip(*taken, strict=True))
        print(f"| {name} | {wall} | {cpu} | " + " | ".join(f"{last[name][stage]:.1f}" for stage in last["here"]) + " |")
    if given.against:
        ratios = [mine[0] / theirs[0] for mine, theirs in zip(seconds["here"], seconds["against"], strict=True)]
        print(f"\nhere / against: {median(ratios):.2f} (median over rounds)")


if __name__ == "__main__":
    main()
