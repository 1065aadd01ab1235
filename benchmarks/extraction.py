"""How fast per-example gradients are made, against a training step, LESS's way and bergson, and how exact they are.

    python -m benchmarks.extraction --model FOLDER --rows ROWS.jsonl.gz --out REPORT.md

Needs torch, transformers and peft, and no other dependency of instsel: neither Ray nor DeepSpeed nor pydantic.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import torch

from benchmarks import report
from benchmarks.actors import Task, measure_scaling
from benchmarks.contenders import catalogue
from benchmarks.cosines import bf16_differences, sketch_errors
from benchmarks.timing import Contender, UnavailableError, measure
from benchmarks.workload import (
    RANDOM_LLAMAS,
    WARMUP_ROWS,
    ModelSpec,
    Workload,
    load_config,
    prepare_models,
    read_rows,
    synthetic_rows,
)
from instsel.data.batching import Example, token_budget_batches
from instsel.errors import InputError

_SKETCH, _BF16, _ACTORS = "sketch-error", "bf16-error", "actors"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what the arguments ask for, prints the report, and writes it where `--out` says."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    options = parser.parse_args(arguments)
    selected = _selected(parser, options.only)
    if options.rows and not options.model:
        parser.error("--rows needs --model: a random Llama has no tokenizer")
    if options.dim % 8:
        parser.error(f"--dim is {options.dim}; expected a multiple of 8")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU")
    try:
        text = run(options, selected, arguments)
    except InputError as error:
        parser.error(str(error))
    print(text)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text, encoding="utf-8")
    return 0


def run(options: argparse.Namespace, selected: Sequence[str], arguments: Sequence[str]) -> str:
    """Measures what is selected and returns the report.

    Raises:
        InputError: the rows cannot be used.
    """
    if options.threads:
        torch.set_num_threads(options.threads)
    rank = options.rank or (8 if options.model else 128)
    spec = ModelSpec(options.model, options.random_llama, rank, options.device, options.seed)
    rows = _rows(options, spec)
    examples, warmup_rows = rows[: options.count], rows[options.count :]
    batches = token_budget_batches([len(row["input_ids"]) for row in examples], options.budget)
    sections = [_heading(options, spec, rows, batches, arguments)]
    dtypes = [dtype for dtype in ("fp32", "bf16") if _needs(selected, dtype)]
    if dtypes:
        models, moments = prepare_models(spec, dtypes, warmup_rows, options.warmup_steps)
        work = Workload(
            models, moments, examples, batches, options.budget, options.dim, options.less_rows, spec.seed, spec.device
        )
        sections += _speed(work, selected, options.rounds)
        sections += _errors(work, selected, options)
    if _ACTORS in selected:
        sections.append(_actors(Task(spec, examples, options.budget, options.dim), options.rounds))
    return "\n".join(sections)


def _speed(work: Workload, selected: Sequence[str], rounds: int) -> list[str]:
    names = [name for name in catalogue() if name in selected]
    if not names:
        return []
    contenders: list[Contender] = []
    skipped: dict[str, str] = {}
    for name in names:
        try:
            contenders.append(catalogue()[name](work))
        except UnavailableError as error:
            skipped[name] = str(error)
        except torch.OutOfMemoryError:
            skipped[name] = "out of memory"
    timings, failed = measure(contenders, rounds, work.device)
    text = (
        "## Speed\n\nReal tokens a second, without padding: median of the rounds. A ratio is the median over rounds of "
        "the ratio within a round. Memory is the highest of all rounds, the untimed one too, less that before it.\n"
    )
    return [text, report.speed_table(names, timings, skipped | failed)]


def _errors(work: Workload, selected: Sequence[str], options: argparse.Namespace) -> list[str]:
    sections = []
    if _SKETCH in selected:
        errors = sketch_errors(work, "fp32", options.error_dims, options.sketch_seeds)
        text = "## Error of the sketch\n\nSketched less exact cosines of all pairs of the rows, fp32.\n"
        sections += [text, report.sketch_table(errors)]
    if _BF16 in selected:
        text = f"## bf16 against fp32\n\nDifference of the cosines of the engine's features, d = {work.dim}.\n"
        sections += [text, report.bf16_table(bf16_differences(work))]
    return sections


def _actors(task: Task, rounds: int) -> str:
    title = "## One process against two\n\n"
    if task.spec.device != "cpu":
        return f"{title}Not measured: it compares processes of one CPU thread each.\n"
    text = "One thread each; engine in fp32 with Adam; each process does the same rows.\n\n"
    return title + text + report.scaling_table(measure_scaling(task, rounds))


def _heading(
    options: argparse.Namespace,
    spec: ModelSpec,
    rows: Sequence[Example],
    batches: Sequence[Sequence[int]],
    arguments: Sequence[str],
) -> str:
    lengths = sorted(len(row["input_ids"]) for row in rows[: options.count])
    model, config = Path(spec.folder).name if spec.folder else f"random Llama {spec.random_llama}", load_config(spec)
    source = Path(options.rows).name if options.rows else "synthetic"
    command = shlex.join(["python", "-m", "benchmarks.extraction", *arguments]).replace(str(Path.home()), "~")
    facts = {
        **report.machine(spec.device),
        "command": f"`{command}`",
        "model": f"{model} ({config.model_type}, {config.num_hidden_layers} layers of {config.hidden_size}, vocabulary "
        f"of {config.vocab_size:,}), LoRA r = {spec.rank} on q, k, v, o, in float32 but where a line says otherwise",
        "warm-up": f"{options.warmup_steps} AdamW steps of {WARMUP_ROWS} rows out of {len(rows) - len(lengths)} others",
        "rows": f"{len(lengths)} ({source}), {sum(lengths):,} tokens, {lengths[0]} to {lengths[-1]} a row",
        "batches": f"{len(batches)}, each of at most {options.budget:,} tokens, padding included",
        "threads": f"{torch.get_num_threads()}; float32 matrix products: {torch.get_float32_matmul_precision()}",
        "rounds": f"1 untimed, {options.rounds} timed, the contenders in turn",
    }
    return f"# Gradient extraction\n\n{report.facts_list(facts)}"


def _rows(options: argparse.Namespace, spec: ModelSpec) -> list[Example]:
    """The measured rows, then those to warm up on: one batch of them at least, and no row twice if there are enough."""
    most = options.count + options.warmup_steps * WARMUP_ROWS
    if options.rows:
        return read_rows(options.rows, options.model, options.count + WARMUP_ROWS, most)
    return synthetic_rows(most, options.length, load_config(spec).vocab_size, spec.seed)


def _needs(selected: Sequence[str], dtype: str) -> bool:
    return (
        any(f"-{dtype}" in name for name in selected) or _BF16 in selected or (_SKETCH in selected and dtype == "fp32")
    )


def _selected(parser: argparse.ArgumentParser, patterns: Sequence[str]) -> list[str]:
    names = [*catalogue(), _SKETCH, _BF16, _ACTORS]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            parser.error(f"--only: nothing is called {pattern!r}; there are {', '.join(names)}")
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}; expected at least 1")
    return value


def _parser() -> argparse.ArgumentParser:
    names = ", ".join([*catalogue(), _SKETCH, _BF16, _ACTORS])
    parser = argparse.ArgumentParser(
        prog="benchmarks.extraction", formatter_class=argparse.ArgumentDefaultsHelpFormatter, description=__doc__
    )
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--model", help="Hugging Face folder")
    model.add_argument("--random-llama", choices=RANDOM_LLAMAS, help="random weights in the shape of a Llama")
    parser.add_argument("--rows", help="JSONL (.gz) with `messages`; random tokens where none is given")
    parser.add_argument("--count", type=_positive, default=48, help="rows to measure; the next ones are warmed up on")
    parser.add_argument("--length", type=_positive, default=512, help="tokens of a random row")
    parser.add_argument("--rank", type=_positive, help="of LoRA; 8 for --model, 128 for --random-llama")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=_positive, help="torch threads; as many as torch takes where none are given")
    parser.add_argument("--budget", type=_positive, default=2048, help="most tokens of a batch, padding included")
    parser.add_argument("--dim", type=_positive, default=8192, help="of the engine's sketch and of LESS's projection")
    parser.add_argument("--error-dims", type=_positive, nargs="+", default=[1024, 4096, 8192], help="for sketch-error")
    parser.add_argument("--sketch-seeds", type=_positive, default=8, help="for sketch-error")
    parser.add_argument("--less-rows", type=_positive, default=16, help="rows of LESS's way, as it is slow")
    parser.add_argument("--warmup-steps", type=_positive, default=16, help="AdamW steps before anything is measured")
    parser.add_argument("--rounds", type=_positive, default=3, help="timed rounds")
    parser.add_argument("--seed", type=int, default=0, help="of random weights, rows and projections")
    parser.add_argument("--only", nargs="+", default=["*"], metavar="PATTERN", help=f"what to measure, of {names}")
    parser.add_argument("--out", type=Path, help="where the report is written")
    return parser


if __name__ == "__main__":
    # Before a tokenizer starts threads of its own.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(main())
