"""Run a tiny study with two versions of instsel and compare what they leave, number by number.

    git worktree add ../former VERSION
    python -m benchmarks.same_results --against ../former

The former version is one whose modules are still flat in `instsel/`, such as 0.5.1. Features, moments and adapters
have to be equal bit for bit; so have the rows, scores and reasons of selections, losses, gamma, and the figures of the
report.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file

from tests.toy import write_toy_model, write_toy_study

METHODS: list[Any] = [
    "random",
    "less",
    "bids",
    {"method": "g2is", "fill": "similarity"},
    {"method": "bids", "name": "bids-fisher", "attribution": "fisher"},
    {"method": "bids", "name": "bids-mixture", "mixture": "pool"},
    "ifd",
    "rds",
]
MIXTURE = {
    "evaluation_rows": 2,
    "least_rows": 4,
    "max_shift": 0.2,
    "unknown": "zero",
    "estimator": "gradients",
    "compare": ["interventions"],
    "interventions": {"bases": 1, "base_rows": 6, "added_rows": 3, "removals": False},
}
# What the former version calls otherwise, by path below the study's folder.
RENAMED = {"represent/": "hidden_states/", "tag/tags.parquet": "tag/categories.parquet", "tag/": "categorize/"}
# Words of the report that changed, by key of summary.json.
REPORT_KEYS = {"losses": "losses", "losses_by_run": "losses_by_run", "differences": "differences", "figures": "metrics"}
COMMAND = "from instsel.cli{module} import app; app()"


def write_study(folder: Path) -> dict[str, Any]:
    """Write the model, the pool and the targets of the study, and return its keys."""
    model = folder / "model"
    model.mkdir(parents=True)
    write_toy_model(model)
    study = write_toy_study(folder, model, selection={"budget": 8, "methods": METHODS}, mixture=MIXTURE)
    return {**study, "model": {**study["model"], "dtype": "float32"}}


def run(code: Path, study: dict[str, Any], out: Path, module: str) -> None:
    """Run the study with the code of a checkout, in a process of its own."""
    file = out.parent / f"{out.name}.json"
    file.write_text(json.dumps({**study, "out": str(out)}))
    environment = {**os.environ, "PYTHONPATH": str(code), "HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, "-c", COMMAND.format(module=module), "run", str(file)]
    subprocess.run(command, env=environment, cwd=out.parent, check=True)


def files_of(folder: Path) -> dict[str, Path]:
    """Return the files of a study that hold numbers, by path, as this version calls it."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".arrow", ".parquet", ".safetensors") and "runs" not in path.parts:
            name = str(path.relative_to(folder))
            for former, now in RENAMED.items():
                name = name.replace(former, now) if name.startswith(former.split("/")[0] + "/") else name
            files[name] = path
    return files


def differences(former: Path, now: Path) -> str | None:
    """Say how two files differ; None where all their numbers and texts are equal."""
    if former.read_bytes() == now.read_bytes():
        return None
    if former.suffix == ".safetensors":
        earlier, later = load_file(former), load_file(now)
        if earlier.keys() != later.keys():
            return "other tensors"
        unequal = [name for name in earlier if not np.array_equal(earlier[name], later[name])]
        return f"{len(unequal)} of {len(earlier)} tensors differ" if unequal else None
    tables = [
        pq.read_table(path) if path.suffix == ".parquet" else pa.ipc.open_file(path).read_all()
        for path in (former, now)
    ]
    if tables[0].num_rows != tables[1].num_rows:
        return f"{tables[0].num_rows} and {tables[1].num_rows} rows"
    columns = [name for name in tables[0].column_names if name in tables[1].column_names]
    unequal = [
        name for name in columns if not tables[0][name].combine_chunks().equals(tables[1][name].combine_chunks())
    ]
    return f"columns differ: {', '.join(unequal)}" if unequal else None


def numbers(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested JSON values by their path."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from numbers(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from numbers(inner, f"{path}.{index}")
    else:
        yield path, value


def compare_reports(former: Path, now: Path) -> list[str]:
    """Compare the figures of the reports; return a line for each part."""
    before, after = (json.loads((folder / "report/summary.json").read_text()) for folder in (former, now))
    lines = []
    for key, renamed in REPORT_KEYS.items():
        earlier, later = dict(numbers(before[key])), dict(numbers(after[renamed]))
        same = sum(later.get(path) == value for path, value in earlier.items())
        lines.append(f"report, {renamed}: {same} of {len(earlier)} figures equal")
    return lines


def main() -> None:
    """Run both versions and print what is equal and what is not; exit with 1 where something is not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", required=True, type=Path, help="checkout of the former version")
    parser.add_argument("--out", required=True, type=Path, help="new folder for both studies")
    arguments = parser.parse_args()
    out: Path = arguments.out.resolve()
    study = write_study(out)
    run(arguments.against.resolve(), study, out / "former", "")
    run(Path(__file__).resolve().parents[1], study, out / "now", ".app")
    former, now = files_of(out / "former"), files_of(out / "now")
    unequal = {name: text for name in former.keys() & now.keys() if (text := differences(former[name], now[name]))}
    for title, names in (("only before", former.keys() - now.keys()), ("only now", now.keys() - former.keys())):
        if names:
            print(f"{title}: {', '.join(sorted(names))}")
    for name, text in sorted(unequal.items()):
        print(f"{name}: {text}")
    stages: dict[str, int] = {}
    for name in former.keys() & now.keys() - unequal.keys():
        stages[name.split("/")[0]] = stages.get(name.split("/")[0], 0) + 1
    print(f"equal files: {', '.join(f'{stage} {count}' for stage, count in sorted(stages.items()))}")
    print("\n".join(compare_reports(out / "former", out / "now")))
    sys.exit(1 if unequal or former.keys() != now.keys() else 0)


if __name__ == "__main__":
    main()
