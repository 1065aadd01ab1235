"""One small Ray, one tiny model and small studies, for the tests of every part."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

pytest_plugins = ["tests.endpoint", "tests.object_store"]

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

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
VOCABULARY = 384
FRUITS = ["apples", "pears", "plums", "figs", "limes", "melons", "dates", "grapes"]
CITIES = ["Oslo", "Lima", "Cairo", "Quito", "Delhi", "Seoul", "Paris", "Rome", "Bern", "Accra"]


OTHER_THAN_UNIT = {"ray", "cluster", "process", "gpu", "long", "soak"}
# Whose tests use a real Ray, or the studies that it ran: one worker of pytest-xdist has all of them, so that there is
# one Ray and each study is run once, and the other worker has the rest meanwhile.
RAY_FOLDERS = ("choice", "notebooks", "reading", "search", "stages")
RAY_FILES = ("benchmarks/test_int8_store.py", "benchmarks/test_scale.py", "test_cli.py", "test_security.py")
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

    from instsel.stages.session import quiet_data

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    quiet_data()
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder with a random two-layer Llama and a byte-level BPE tokenizer with a ChatML template."""
    import torch
    from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
    from tokenizers.models import BPE
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    lines = [f"A basket holds {place} {fruit} and the train goes to {city}." for place, (fruit, city) in _pairs(40)]
    tokenizer.train_from_iterator(lines, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHAT_TEMPLATE
    )
    folder = tmp_path_factory.mktemp("tiny-model")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
        initializer_range=0.1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
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
        [f"a basket of {fruit}, a train to {city}" for _, (fruit, city) in _pairs(40)], trainer
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
        return _write(tmp_path / name, rows)

    return write


@pytest.fixture(scope="session")
def study_writer(tiny_model: Path) -> Callable[..., dict[str, Any]]:
    """Write a small pool and two targets into a folder, and return the study over them as a study file's keys.

    `study_writer(folder, pool_rows=24, validation_rows=4, heldout_rows=4, **parts)`: `parts` replace whole top-level
    keys. The pool has rows like each target's (sources `baskets` and `trains`) and rows like neither (`letters`).
    """

    def make(
        folder: Path, pool_rows: int = 24, validation_rows: int = 4, heldout_rows: int = 4, **parts: Any
    ) -> dict[str, Any]:
        kinds = [_basket, _train, _letters]
        _write(folder / "pool/rows.jsonl", [kinds[number % 3](number) for number in range(pool_rows)])
        targets = {}
        for name, row in (("sums", _basket), ("cities", _train)):
            numbers = range(1000, 1000 + validation_rows + heldout_rows)
            rows = [row(number) for number in numbers]
            _write(folder / f"targets/{name}/validation.jsonl", rows[:validation_rows])
            _write(folder / f"targets/{name}/heldout.jsonl", rows[validation_rows:])
            targets[name] = {
                "validation": f"targets/{name}/validation.jsonl",
                "heldout": f"targets/{name}/heldout.jsonl",
            }
        study = {
            "name": "tiny",
            "out": str(folder / "study"),
            "root": str(folder),
            "model": {"name": str(tiny_model), "dtype": "float32"},
            "pool": [{"path": "pool/*.jsonl"}],
            "targets": targets,
            "data": {"max_length": 128, "shard_rows": 8},
            "lora": {"rank": 2, "alpha": 4.0},
            "warmup": {"share": 0.5, "epochs": 2, "learning_rate": 1e-2, "batch_size": 4},
            "features": {"dim": 64, "token_budget": 512},
            "selection": {"budget": 0.25, "methods": ["random", "less", "bids"]},
            "finetune": {"epochs": 1, "learning_rate": 1e-2, "batch_size": 4},
            "resources": {"trial_workers": 1, "actors": 1},
            "evaluation": {"token_budget": 512, "bootstrap_samples": 100},
        }
        return {**study, **parts}

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
    from instsel.progress import Terminal
    from instsel.stages.pipeline import run_study
    from instsel.study_file import parse_study

    # Two methods: each is a training that every run of these tests waits for.
    selection = {"budget": 0.25, "methods": ["random", "bids"]}
    raw = study_writer(tmp_path_factory.mktemp("finished"), selection=selection)
    run_study(parse_study(raw, "test"), Terminal())
    return raw


def _write(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def _pairs(count: int) -> list[tuple[int, tuple[str, str]]]:
    return [(n, (FRUITS[n % len(FRUITS)], CITIES[(n // 3) % len(CITIES)])) for n in range(count)]


def _basket(number: int) -> dict[str, Any]:
    fruit = FRUITS[number % len(FRUITS)]
    question = f"A basket holds {number} {fruit}, and {number % 7} more {fruit} come. How many?"
    return _row(question, str(number + number % 7), "baskets", "sum")


def _train(number: int) -> dict[str, Any]:
    city = CITIES[number % len(CITIES)]
    return _row(f"Train {number} goes to the capital {city}. Where is it going?", f"To {city}.", "trains", "city")


def _letters(number: int) -> dict[str, Any]:
    return _row(f"Write letter {number % 26} of the alphabet, row {number}.", chr(97 + number % 26), "letters", "write")


def _row(question: str, answer: str, source: str, task: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "source": source, "task": task}
