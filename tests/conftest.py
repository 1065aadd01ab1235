"""One small Ray, one tiny model and small studies, for the tests of every part."""

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.toy import pairs, write_jsonl, write_toy_model, write_toy_study

pytest_plugins = ["tests.endpoint", "tests.object_store", "tests.cloud_stores", "tests.studies"]

# Before Ray, torch or Hugging Face are imported: no hub, few threads, and no killing of workers on a busy machine.
# Idle workers stay for the next stage, instead of being started anew for each.
for _name, _value in {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_memory_usage_threshold": "0.99",
    "RAY_num_workers_soft_limit": "8",
    "RAY_USAGE_STATS_ENABLED": "0",
}.items():
    os.environ.setdefault(_name, _value)

# In the environment of every study that tests run, whose folders are searched for them.
SECRETS = {
    name: f"not-to-be-written-{name.lower()}"
    for name in ("HF_TOKEN", "MLFLOW_TRACKING_TOKEN", "OPENAI_API_KEY", "WANDB_API_KEY")
} | {"RAY_AUTH_TOKEN": "5ec7e7" * 10}
os.environ.update(SECRETS)

ALONE = {"cluster", "gpu", "long", "guard", "soak"}
OTHER_THAN_UNIT = {"ray", "cluster", "process", "gpu", "long", "soak"}
# Whose tests use a real Ray, or the studies that it ran: one worker of pytest-xdist has all of them, so that there is
# one Ray and each study is run once, and the other worker has the rest meanwhile.
RAY_FOLDERS = ("api", "choice", "notebooks", "pipeline", "planner", "runtime", "search")
RAY_FILES = (
    "benchmarks/test_int8_store.py",
    "benchmarks/test_scale.py",
    "cli/test_app.py",
    "study/test_graph.py",
    "study/test_staleness.py",
    "test_public_names.py",
    "test_security.py",
)
# Whose tests look at the ports and the Rays of this machine.
CLUSTER_FOLDERS = ("cluster",)


def _scope(file: Path) -> str:
    """What a test file shares a worker with: all files that need a Ray, all of cluster/, or none."""
    place = file.resolve().relative_to(Path(__file__).parent.resolve())
    if place.as_posix() in RAY_FILES or place.parts[0] in RAY_FOLDERS:
        return "ray"
    return "cluster" if place.parts[0] in CLUSTER_FOLDERS else place.as_posix()


class _ByScope(LoadScopeScheduling):
    """Deals out tests to workers by `_scope`, those of the largest scope first."""

    def _split_scope(self, nodeid: str) -> str:
        return _scope(Path(self.config.rootpath, nodeid.partition("::")[0]))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two, and none beside pytest itself where tests are asked for that need the machine to themselves."""
    asked = re.sub(r"not\s+\w+", "", config.option.markexpr)
    return 0 if set(re.findall(r"\w+", asked)) & ALONE else 2


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return _ByScope(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by what it takes."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if "ray_session" in fixtures:
            item.add_marker("ray")
            if _scope(item.path) != "ray":
                raise pytest.UsageError(f"{item.path} uses `ray_session`: name it in RAY_FILES of tests/conftest.py")
        if "object_store" in fixtures:
            item.add_marker("process")
        if _scope(item.path) == "cluster":
            item.add_marker("cluster")
        if not {mark.name for mark in item.iter_markers()} & OTHER_THAN_UNIT:
            item.add_marker("unit")


@pytest.fixture(autouse=True)
def _units_start_no_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test that is marked `unit` and starts a process."""
    if request.node.get_closest_marker("unit") is None:
        return

    start = subprocess.Popen.__init__

    def refuse(self: subprocess.Popen, arguments: Any, *others: Any, **options: Any) -> None:
        # DeepSpeed under ZeRO 3 asks it for the sockets of this machine.
        if arguments[0] != "numactl":
            raise AssertionError(f"a unit test starts a process, mark it `process`: {arguments}")
        start(self, arguments, *others, **options)

    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One Ray of two CPUs for the whole test run."""
    import ray

    from instsel.runtime.session import quiet_data

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    quiet_data()
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the toy model."""
    folder = tmp_path_factory.mktemp("tiny-model")
    write_toy_model(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_model: Path) -> Any:
    """The tiny model's tokenizer; a test that changes it takes a deep copy."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence-transformers folder, pooled by the mean: a random two-layer BERT that takes 64 tokens."""
    import torch
    from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors, trainers
    from tokenizers.models import WordPiece
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    tokenizer = Tokenizer(WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=marks, show_progress=False)
    tokenizer.train_from_iterator(
        [f"a basket of {fruit}, a train to {city}" for _, (fruit, city) in pairs(40)], trainer
    )
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=64,
    )
    folder = tmp_path_factory.mktemp("tiny-encoder")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    BertModel(config).save_pretrained(folder)
    kinds = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in kinds.items()]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    return folder


@pytest.fixture
def write_rows(tmp_path: Path) -> Callable[..., Path]:
    """Write rows as JSONL below the test's folder."""

    def write(name: str, rows: list[Any]) -> Path:
        return write_jsonl(tmp_path / name, rows)

    return write


@pytest.fixture(scope="session")
def study_writer(tiny_model: Path) -> Callable[..., dict[str, Any]]:
    """`write_toy_study` with the toy model: `study_writer(folder, pool_rows=24, ..., **parts)`."""

    def make(folder: Path, *arguments: Any, **parts: Any) -> dict[str, Any]:
        return write_toy_study(folder, tiny_model, *arguments, **parts)

    return make


@pytest.fixture
def tiny_study(tmp_path: Path, study_writer: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """`study_writer` for the test's own folder."""

    def make(**parts: Any) -> dict[str, Any]:
        return study_writer(tmp_path, **parts)

    return make


@pytest.fixture(scope="session")
def finished_study(
    tmp_path_factory: pytest.TempPathFactory, study_writer: Callable[..., dict[str, Any]], ray_session: None
) -> dict[str, Any]:
    """The keys of a small study that ran from its file to its report; tests read its folder and leave it as it is."""
    from instsel.config.file import parse_study
    from instsel.console import Terminal
    from instsel.pipeline.runner import run_study

    # Two methods: each is a training that every run of these tests waits for.
    selection = {"budget": 0.25, "methods": ["random", "bids"]}
    raw = study_writer(tmp_path_factory.mktemp("finished"), selection=selection)
    run_study(parse_study(raw, "test"), Terminal())
    return raw
