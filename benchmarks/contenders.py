"""The engine, and what it is measured against: a plain LoRA step, LESS's way, bergson."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.bergson_index import bergson_index
from benchmarks.projection import project
from benchmarks.timing import Contender, Run, synchronise
from benchmarks.workload import Workload, count_tokens
from instsel.data.batching import collate
from instsel.gradients.adam import BETAS, EPS, Direction
from instsel.gradients.engine import GradientEngine
from instsel.gradients.sketch import CountSketch

SKETCH_SEED = 0


class _Precision(NamedTuple):
    """A way to train in bf16: whether under autocast, and in which dtype the LoRA matrices are."""

    what: str
    autocast: bool
    adapter: torch.dtype


_FP32 = _Precision("", autocast=False, adapter=torch.float32)
_BF16_PRECISIONS = (
    _Precision("LoRA in fp32", autocast=False, adapter=torch.float32),
    _Precision("LoRA in fp32 under autocast", autocast=True, adapter=torch.float32),
    _Precision("LoRA and AdamW in bf16", autocast=False, adapter=torch.bfloat16),
)


def catalogue() -> dict[str, Callable[[Workload], Contender]]:
    """Every contender by name, in the order of the report; makers raise UnavailableError where it cannot run."""
    makers: dict[str, Callable[[str, str, Workload], Contender]] = {
        "step-{}": plain_step,
        "engine-{}": partial(engine, adam=False),
        "engine-{}-adam": partial(engine, adam=True),
        "bergson-{}": bergson_index,
        "less-{}": partial(less, projected=False),
        "less-{}-projected": partial(less, projected=True),
    }
    names = [(name.format(dtype), dtype, make) for dtype in ("fp32", "bf16") for name, make in makers.items()]
    return {name: partial(make, name, dtype) for name, dtype, make in names}


def plain_step(name: str, dtype: str, work: Workload) -> Contender:
    """A LoRA training step as Hugging Face's Trainer makes it: the model's own loss, backward, AdamW."""
    model = work.models[dtype]
    batches = [collate([work.examples[row] for row in rows], device=work.device) for rows in work.batches]
    precision, note = _FP32, ""
    if dtype == "bf16":
        precision, note = _fastest_precision(model, batches[0], work.device)
    what = f"plain LoRA step, Hugging Face loss, AdamW{note}"
    return Contender(name, what, len(work.examples), work.tokens, lambda: _training(model, batches, precision))


def _fastest_precision(model: nn.Module, batch: dict[str, Tensor], device: str) -> tuple[_Precision, str]:
    """The fastest of the ways to train in bf16 on one batch, three turns each, and what the report says of it."""
    runs = {precision: _training(model, [batch], precision) for precision in _BF16_PRECISIONS}
    best = dict.fromkeys(_BF16_PRECISIONS, float("inf"))
    for _ in range(3):
        for precision, run in runs.items():
            start = time.perf_counter()
            run()
            synchronise(device)
            best[precision] = min(best[precision], time.perf_counter() - start)
    tried = ", ".join(f"{precision.what} {seconds:.3g} s" for precision, seconds in best.items())
    fastest = min(best, key=best.__getitem__)
    return fastest, f", {fastest.what} (the fastest on one batch: {tried})"


def _training(model: nn.Module, batches: Sequence[dict[str, Tensor]], precision: _Precision) -> Run:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # A learning rate of 0 is the same work and leaves the weights to the next contender as they are. Fused, as
    # Trainer's default is.
    optimizer = torch.optim.AdamW(parameters, lr=0.0, fused=True)

    def run() -> None:
        model.train()
        with _adapter_in(parameters, precision.adapter):
            for batch in batches:
                with torch.autocast(batch["input_ids"].device.type, torch.bfloat16, enabled=precision.autocast):
                    loss = model(**batch).loss
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()

    return run


@contextmanager
def _adapter_in(parameters: Sequence[nn.Parameter], dtype: torch.dtype) -> Iterator[None]:
    saved = [parameter.data for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.data = parameter.data.to(dtype)
        yield
    finally:
        for parameter, data in zip(parameters, saved, strict=True):
            parameter.grad = None
            parameter.data = data


def less(name: str, dtype: str, work: Workload, *, projected: bool) -> Contender:
    """LESS (arXiv 2402.04333) as released: batch size one, autograd, Adam direction, dense Rademacher projection.

    Its rows wait for each other and are projected together, 16 at a time there (`project_interval`), here all of
    them; its CUDA kernel for the projection is not used.
    """
    rows = work.examples[: work.less_rows]
    what = "LESS's way: batch size one, autograd, Adam direction"
    if projected:
        what += f", dense Rademacher projection of all {len(rows)} rows to d = {work.dim}"

    def start() -> Run:
        directions = less_directions(work.models[dtype], work.moments, rows, work.device)
        return lambda: project(directions(), work.dim, work.seed) if projected else directions()

    return Contender(name, what, len(rows), count_tokens(rows), start)


def less_directions(
    model: Any, moments: dict[str, tuple[Tensor, Tensor]], rows: Sequence[Any], device: str
) -> Callable[[], Tensor]:
    """Makes the float32 (rows, trainable parameters) Adam directions, one row at a time by autograd."""
    parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
    first, second = (torch.cat([moments[name][kind].flatten() for name in parameters]) for kind in (0, 1))
    direction = Direction(first, second, BETAS, EPS, torch.device(device))
    size = len(first)

    def run() -> Tensor:
        model.eval()
        directions = torch.empty(len(rows), size, device=device)
        for number, row in enumerate(rows):
            loss = model(**collate([row], device=device)).loss
            gradients = torch.autograd.grad(loss, list(parameters.values()))
            directions[number] = direction(torch.cat([gradient.flatten() for gradient in gradients]))
        return directions

    return run


def engine(name: str, dtype: str, work: Workload, *, adam: bool) -> Contender:
    """The engine of this project."""
    what = f"engine, {'Adam directions' if adam else 'plain gradients'}, sketch of d = {work.dim}"

    def start() -> Run:
        return partial(make_engine(work, dtype, adam=adam).features, work.examples)

    return Contender(name, what, len(work.examples), work.tokens, start)


def make_engine(work: Workload, dtype: str, *, adam: bool) -> GradientEngine:
    """An engine on the model of a dtype, with the sketch's default seed."""
    sketch = CountSketch(work.dim, SKETCH_SEED)
    moments = work.moments if adam else None
    return GradientEngine(work.models[dtype], sketch=sketch, moments=moments, token_budget=work.budget)
