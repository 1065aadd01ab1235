"""Time stage *prepare* alone on one large file, on one CPU and on several; also of another version of instsel.

    python -m benchmarks.prepare --model MODEL --pool alpaca.jsonl.gz oasst1.jsonl.gz --targets gsm8k \\
        --number 100000 --cpus 1 2 --code . ../instsel-0.5.1

The pool's rows are repeated, words of each copy changed, until the file has `--number` rows. A run is a process whose
Ray has so many CPUs, and which is kept on as many cores; its seconds are those of the stage's manifest. Seconds of CPU
are of all its processes, without what Ray and imports take before the stage. Near-copies are not looked for, which
earlier versions cannot do, unless `--near-copies` is given.
"""

import argparse
import gzip
import itertools
import json
import os
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import report
from instsel.report.markdown import markdown_table

CHANGED = 0.3
"""Of the words of a copy."""

# A process of its own: versions do not mix, and Ray's processes inherit the cores that it may use. Ray keeps as many
# idle workers as where instsel starts it.
RUN = """
import importlib, json, os, sys
study, cpus = sys.argv[1], int(sys.argv[2])
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cpus])
import psutil, ray
try:
    from instsel.runtime.session import HELPER_ACTORS, WORKERS_LIMIT
    os.environ[WORKERS_LIMIT] = str(HELPER_ACTORS + cpus)
except ImportError:
    pass
ray.init(num_cpus=cpus, include_dashboard=False, log_to_driver=False)
def seconds():
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    times = [each.cpu_times() for each in processes]
    return sum(each.user + each.system + each.children_user + each.children_system for each in times)
try:
    app = importlib.import_module("instsel.cli.app").app
except ImportError:
    app = importlib.import_module("instsel.cli").app
before = seconds()
app(["run", study, "--until", "prepare"], standalone_mode=False)
print("CPU", seconds() - before)
"""


@dataclass(frozen=True)
class Result:
    """What a run took, seconds by the clock and of CPU, and the rows that it read."""

    code: str
    cpus: int
    rows: int
    seconds: float
    cpu_seconds: float

    def line(self) -> list[str]:
        """Return the cells of the table."""
        speed = self.rows / self.seconds
        each = self.cpu_seconds / self.rows * 1e3
        return [self.code, str(self.cpus), f"{self.rows:,}", f"{self.seconds:.1f}", f"{speed:,.0f}", f"{each:.2f}"]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prepare", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of a model with a chat template")
    parser.add_argument("--pool", type=Path, nargs="+", required=True, help="files of rows with `messages`")
    parser.add_argument(
        "--targets", type=Path, nargs="+", required=True, help="folders of val.jsonl.gz and heldout.jsonl.gz"
    )
    parser.add_argument("--number", type=int, default=100_000, help="rows of the file")
    parser.add_argument("--cpus", type=int, nargs="+", default=[1, 2], help="CPUs of each run")
    parser.add_argument("--code", type=Path, nargs="+", default=[Path()], help="source trees of instsel")
    parser.add_argument("--near-copies", action="store_true", help="look for near-copies, too, by versions that can")
    parser.add_argument("--out", type=Path, help="file of the report; default standard output")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="prepare-") as scratch:
        pool = Path(scratch, "pool.jsonl")
        write_pool(pool, [row for path in options.pool for row in _read(path)], options.number)
        results = []
        for code, cpus in itertools.product(options.code, options.cpus):
            results.append(_run(code, cpus, _study(Path(scratch, "study"), code, pool, options), options.number))
            print(*results[-1].line(), sep="  ", file=sys.stderr, flush=True)
    command = shlex.join(["python", "-m", "benchmarks.prepare", *(sys.argv[1:] if argv is None else argv)])
    facts = report.facts_list({**report.machine("cpu"), "command": f"`{command}`"})
    header = ["code", "CPUs", "rows", "seconds", "rows a second", "CPU, ms a row"]
    text = f"# Stage prepare\n\n{facts}\n{markdown_table(header, [result.line() for result in results])}"
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    print(text)


def write_pool(path: Path, rows: Sequence[dict[str, Any]], number: int, seed: int = 0) -> None:
    """Write rows again and again as JSON lines, in each copy but the first other words in place of some.

    Args:
        path: of the file.
        rows: with `messages`.
        number: of lines.
        seed: of the words.
    """
    generator = random.Random(seed)
    words = sorted({word for row in rows for message in row["messages"] for word in message["content"].split(" ")})
    with path.open("w", encoding="utf-8") as stream:
        for index in range(number):
            row = rows[index % len(rows)]
            if index >= len(rows):
                changed = [
                    {**message, "content": _changed(message["content"], words, generator)}
                    for message in row["messages"]
                ]
                row = {**row, "id": f"{row.get('id')}-{index}", "messages": changed}
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def _changed(text: str, words: Sequence[str], generator: random.Random) -> str:
    return " ".join(generator.choice(words) if generator.random() < CHANGED else word for word in text.split(" "))


def _read(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _study(folder: Path, code: Path, pool: Path, options: argparse.Namespace) -> Path:
    """Write a study file; return its path."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    study = {
        "name": "prepare",
        "out": str(folder / "out"),
        "model": {"name": str(options.model.resolve())},
        "pool": [{"path": str(pool)}],
        "targets": {
            path.name: {"validation": f"{path.resolve()}/val.jsonl.gz", "heldout": f"{path.resolve()}/heldout.jsonl.gz"}
            for path in options.targets
        },
        "selection": {"budget": 100, "methods": ["random"]},
    }
    if not options.near_copies and (code / "instsel/data/near_duplicates.py").exists():
        study["data"] = {"near_duplicates": "off"}
    path = folder / "study.yaml"
    # JSON is YAML.
    path.write_text(json.dumps(study), encoding="utf-8")
    return path


def _run(code: Path, cpus: int, study: Path, rows: int) -> Result:
    environment = {
        **os.environ,
        "PYTHONPATH": str(code.resolve()),
        "HF_HUB_OFFLINE": "1",
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    command = [sys.executable, "-c", RUN, str(study), str(cpus)]
    done = subprocess.run(command, env=environment, cwd=study.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{code} on {cpus} CPUs ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    manifest = json.loads((study.parent / "out/prepare/manifest.json").read_text(encoding="utf-8"))
    cpu_seconds = float(done.stdout.split("CPU ")[-1].split()[0])
    return Result(code.resolve().name, cpus, rows, manifest["cost"]["seconds"], cpu_seconds)


if __name__ == "__main__":
    main()
