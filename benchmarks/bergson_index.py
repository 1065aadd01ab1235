"""bergson (PyPI), where it is installed: what its `bergson build` does between loading a model and being done."""

import io
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.timing import Contender, Run, UnavailableError
from benchmarks.workload import Workload

PROJECTION_DIM = 16


def bergson_index(name: str, dtype: str, work: Workload) -> Contender:
    """Gradients of the LoRA modules, each projected from both sides to 16 x 16, without optimizer state.

    The calls are those of bergson.build.build_worker; the rows come in the other contenders' batches. It writes its
    index to a temporary folder, which its time includes, as it knows no other way.

    Raises:
        UnavailableError: bergson is not installed, or cannot be imported.
    """
    if find_spec("bergson") is None:
        raise UnavailableError("bergson is not installed")
    try:
        # Imported here, outside of what is timed.
        import bergson.build  # noqa: F401
    except ImportError as error:
        raise UnavailableError(f"bergson cannot be imported: {error}") from None
    what = (
        f"bergson {version('bergson')}, as `bergson build` with projection_dim {PROJECTION_DIM} on the LoRA modules, "
        "writing its index to disk"
    )
    return Contender(name, what, len(work.examples), work.tokens, lambda: _building(dtype, work))


def _building(dtype: str, work: Workload) -> Run:
    from datasets import Dataset

    model = work.models[dtype]
    columns = {key: [list(example[key]) for example in work.examples] for key in ("input_ids", "labels")}
    data = Dataset.from_dict({**columns, "length": [len(tokens) for tokens in columns["input_ids"]]})

    def run() -> tuple[int, ...]:
        with tempfile.TemporaryDirectory() as folder, _as_bergson_loads(model), _quiet():
            return build_index(model, data, work.batches, work.budget, dtype, Path(folder) / "index")

    return run


def build_index(
    model: Any, data: Any, batches: list[list[int]], budget: int, dtype: str, path: Path
) -> tuple[int, ...]:
    """Writes the index below `path` and returns its shape, (rows, modules x 256)."""
    from bergson.collection import collect_gradients
    from bergson.config.config import IndexConfig, PreprocessConfig
    from bergson.data import load_gradients
    from bergson.utils.worker_utils import create_processor, extract_peft_target_modules

    config = IndexConfig(
        run_path=str(path),
        projection_dim=PROJECTION_DIM,
        precision=dtype,
        token_batch_size=budget,
        loss_reduction="mean",
    )
    config.partial_run_path.mkdir(parents=True)
    modules = extract_peft_target_modules(model)
    processor = create_processor(model, config, modules)
    collect_gradients(
        model=model,
        data=data,
        processor=processor,
        cfg=config,
        batches=batches,
        target_modules=modules,
        preprocess_cfg=PreprocessConfig(),
    )
    return tuple(load_gradients(config.partial_run_path).shape)


@contextmanager
def _as_bergson_loads(model: Any) -> Iterator[None]:
    """Only the input embedding requires a gradient, as bergson.utils.worker_utils.setup_model_and_peft sets it."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    embedding = model.get_input_embeddings()
    try:
        model.eval().requires_grad_(False)
        embedding.requires_grad_(True)
        yield
    finally:
        embedding.requires_grad_(False)
        for parameter in trainable:
            parameter.requires_grad_(True)


@contextmanager
def _quiet() -> Iterator[None]:
    logging.disable(logging.INFO)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)
