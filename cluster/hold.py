"""Bring the running Ray cluster to a size and hold it there while a command runs.

    python cluster/hold.py --gpus 8 -- python jobs/run.py --config STUDY.yaml

A stage shares its work out among the GPUs that the cluster has when the stage starts, and an autoscaler starts machines
only for work that waits: a cluster without workers would look like one without GPUs. So the GPUs are asked for first,
and asked for until the end, also through stages that leave them idle. `--nodes` only waits, where nothing scales.
"""

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources

POLL_SECONDS = 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask, wait, run, release; returns the exit status of the command, or 1 where the cluster did not come."""
    options = _parse(arguments)
    signal.signal(signal.SIGTERM, _stop)
    # "auto" never starts a Ray of its own; RAY_ADDRESS, which every Ray job has, comes first.
    ray.init(address="auto", log_to_driver=False)
    try:
        if options.gpus is not None:
            request_resources(bundles=[{"GPU": 1}] * options.gpus)
        if not _wait(_wanted(options), options.timeout):
            return 1
        return _run(options.command) if options.command else 0
    finally:
        if options.gpus is not None:
            request_resources(bundles=[])


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="hold.py", description="bring the Ray cluster to a size and hold it there while a command runs"
    )
    parser.add_argument("--gpus", type=int, help="ask the autoscaler for so many GPUs and wait for them; 0 lets go")
    parser.add_argument("--nodes", type=int, help="wait for so many nodes, the head counted")
    parser.add_argument("--timeout", type=float, default=30, help="minutes to wait before giving up; default 30")
    parser.add_argument("command", nargs="*", help="what to run, after --")
    options = parser.parse_args(arguments)
    if options.gpus is None and options.nodes is None:
        parser.error("say how large the cluster has to be: --gpus or --nodes")
    return options


def _wanted(options: argparse.Namespace) -> list[tuple[str, int, Callable[[], int]]]:
    sizes = [("GPUs", options.gpus, _gpus), ("nodes", options.nodes, _nodes)]
    return [(name, count, size) for name, count, size in sizes if count]


def _gpus() -> int:
    return int(ray.cluster_resources().get("GPU", 0))


def _nodes() -> int:
    return sum(bool(node["Alive"]) for node in ray.nodes())


def _wait(wanted: list[tuple[str, int, Callable[[], int]]], minutes: float) -> bool:
    deadline = time.monotonic() + 60 * minutes
    told = ""
    while True:
        sizes = [(name, count, size()) for name, count, size in wanted]
        text = ", ".join(f"{there} of {count} {name}" for name, count, there in sizes)
        if text != told:
            print(f"hold.py: {text}", file=sys.stderr, flush=True)
            told = text
        if all(there >= count for _, count, there in sizes):
            return True
        if time.monotonic() > deadline:
            print(f"hold.py: gave up after {minutes:g} minutes: {text}", file=sys.stderr)
            return False
        time.sleep(POLL_SECONDS)


def _run(command: Sequence[str]) -> int:
    with subprocess.Popen(command) as process:
        try:
            status = process.wait()
        except BaseException:
            process.terminate()
            raise
    return status if status >= 0 else 128 - status


def _stop(number: int, frame: Any) -> None:
    """End by an exception, which Python's own answer to SIGTERM is not, so that the GPUs are let go."""
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
