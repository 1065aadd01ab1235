"""The look before a run: every kind of problem ends `instsel run` with status 2 and its key, and Ray never starts."""

import json
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from transformers import AutoTokenizer, Phi3Config
from typer.testing import CliRunner, Result

from instsel.cli.app import app
from instsel.config.file import parse_study
from instsel.console import Terminal
from instsel.errors import InputError, Problem
from instsel.pipeline import preflight as module
from instsel.pipeline.preflight import preflight, require_no_problem


class _Started(Exception):
    """Ray was about to start."""


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing start Ray, and none be there already."""

    def start(*_: Any, **__: Any) -> None:
        raise _Started

    monkeypatch.setattr(ray, "init", start)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture
def run(tmp_path: Path, tiny_study: Callable[..., dict[str, Any]]) -> Callable[..., Result]:
    """Run a command on the toy study with some of its keys replaced."""

    def make(*settings: str, command: str = "run", **parts: Any) -> Result:
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(tiny_study(**parts)))
        return CliRunner().invoke(app, [command, str(path), *(word for each in settings for word in ("--set", each))])

    return make


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """Copy the toy model, to be changed."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def _phi3(folder: Path) -> None:
    sizes = {"vocab_size": 384, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    Phi3Config(**sizes, intermediate_size=64, pad_token_id=0).save_pretrained(folder)


def _pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _more_tokens(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(folder)


def _no_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize(
    ("change", "settings", "told"),
    [
        (_phi3, [], "lora.target_modules: the default q_proj, k_proj, v_proj match no layer of the model, only o_proj"),
        (None, ["lora.target_modules=[c_attn]"], "lora.target_modules: c_attn matches no layer of the model, nothing"),
        (None, ["lora.target_modules=[q_proj,embed_tokens]"], "lora.target_modules: embed_tokens is no layer inside"),
        (None, ["lora.target_modules=[q_proj,lm_head]"], "lora.target_modules: lm_head is no layer inside the model"),
        (_pickle, [], "has its weights in pytorch_model.bin alone, a pickle"),
        (_more_tokens, [], "model.name: the tokenizer has tokens beyond the"),
        (None, ["data.max_length=4096"], "data.max_length: rows of 4096 tokens are longer than the 256 positions"),
        (_no_template, [], "the tokenizer has no chat template; set model.chat_template"),
        (None, ["pool.0.path=nowhere.jsonl"], "pool.0.path: "),
        (None, ["targets.sums.heldout=nowhere.jsonl"], "targets.sums.heldout: "),
        (None, ["model.name=/no/such/folder"], "model.name: folder /no/such/folder does not exist; correct the path"),
        (None, ["resources.ray_address=ray://head:10001"], "resources.ray_address: ray://head:10001 is the address of"),
        (None, ["deepspeed.config=none.json"], "deepspeed.config: "),
    ],
)
def test_a_problem_ends_the_command_with_its_key_before_ray_starts(
    change: Callable[[Path], None] | None,
    settings: list[str],
    told: str,
    command: str,
    model: Path,
    run: Callable[..., Result],
) -> None:
    if change is not None:
        change(model)
    named = [f"model.name={model}", *settings]
    result = run(*named, command=command, lora={"rank": 2})
    assert result.exit_code == 2, result.output
    assert told in result.stderr
    assert result.stderr.startswith("error: ") and "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"zero_optimization": {"stage": 2, "stagee": 1}}, "zero_optimization.stagee is no key of DeepSpeed"),
        ({"wall_clock_breakdown": "false"}, 'wall_clock_breakdown is the text "false"'),
        ({"tensor_parallel": {"autotp_size": 2}}, "tensor_parallel.autotp_size is 2"),
    ],
)
def test_a_deepspeed_json_ends_the_command_with_its_key(
    config: Any, told: str, run: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / "ds.json").write_text(json.dumps(config))
    result = run(f"deepspeed.config={tmp_path}/ds.json")
    assert result.exit_code == 2
    assert f"deepspeed.config: {told}" in result.stderr


def test_a_cluster_that_is_gone_ends_the_command(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    result = run(f"resources.ray_address={address}")
    assert result.exit_code == 2
    assert f"resources.ray_address: no Ray cluster answers at {address}" in result.stderr
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert f"RAY_ADDRESS: no Ray cluster answers at {address}" in run().stderr
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/" + "x" * 80)
    assert "RAY_TMPDIR: /tmp/xxx" in run().stderr


def test_all_problems_are_listed_at_once(run: Callable[..., Result], model: Path) -> None:
    _pickle(model)
    result = run(
        f"model.name={model}",
        "pool.0.path=nowhere.jsonl",
        "lora.target_modules=[c_attn]",
        "data.max_length=512",
        "resources.ray_address=head",
    )
    assert result.exit_code == 2
    first, *lines = result.stderr.splitlines()
    assert first == "error: 5 problems, found before anything was run:"
    assert [line.strip().partition(":")[0] for line in lines] == [
        "pool.0.path",
        "resources.ray_address",
        "model.name",
        "lora.target_modules",
        "data.max_length",
    ]


@pytest.mark.process
def test_a_wrong_study_takes_seconds_from_the_command_line(
    model: Path, tmp_path: Path, tiny_study: Callable[..., dict[str, Any]]
) -> None:
    config = json.loads((model / "config.json").read_text())
    large = {"hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64, "head_dim": 128}
    (model / "config.json").write_text(json.dumps({**config, **large, "num_key_value_heads": 8}))
    (tmp_path / "ds.json").write_text('{"zero_optimization": {"stage": 3, "stagee": 1}}')
    parts = {"model": {"name": str(model)}, "lora": {"target_modules": ["c_attn"]}}
    raw = tiny_study(**parts, deepspeed={"config": str(tmp_path / "ds.json")})
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(raw))
    code = "from instsel.cli.app import app; app()"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code, "run", tmp_path / "study.yaml"], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 2
    assert [line.strip().partition(":")[0] for line in done.stderr.splitlines()[1:]] == [
        "deepspeed.config",
        "lora.target_modules",
    ]
    # Of one core, so that a machine that is busy with other things does not count.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 10


def test_a_search_is_looked_at_too(run: Callable[..., Result]) -> None:
    result = run(
        "lora.target_modules=[c_attn]", command="search", search={"space": {"finetune.learning_rate": [1e-3, 1e-2]}}
    )
    assert result.exit_code == 2
    assert "lora.target_modules: c_attn matches no layer" in result.stderr


def test_a_study_without_a_problem_starts_ray(run: Callable[..., Result]) -> None:
    assert isinstance(run().exception, _Started)


def test_an_encoder_is_looked_at_where_methods_read_embeddings(
    tiny_study: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    parts = {"embedding": {"encoder": str(tmp_path / "none")}}
    assert preflight(parse_study(tiny_study(**parts), "s")) == []
    selection = {"budget": 0.25, "methods": ["smart"]}
    assert preflight(parse_study(tiny_study(**parts, selection=selection), "s")) == [
        Problem("embedding.encoder", f"folder {tmp_path}/none does not exist; correct the path")
    ]


def test_what_may_work_is_mentioned_and_does_not_end_a_study(
    tiny_study: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = parse_study(tiny_study(), "s")
    note = Problem("model.name", "a/b is not on this machine yet", is_fatal=False)
    monkeypatch.setattr(module, "preflight", lambda _: [note])
    require_no_problem(study, Terminal())
    assert "note: model.name: a/b is not on this machine yet" in capsys.readouterr().out
    wrong = Problem("data.max_length", "lower it")
    monkeypatch.setattr(module, "preflight", lambda _: [note, wrong, wrong])
    with pytest.raises(InputError, match=r"^data.max_length: lower it$"):
        require_no_problem(study, Terminal())
    with pytest.raises(
        InputError, match=r"^2 problems, found before anything was run:\n  first: x\n  data.max_length:"
    ):
        require_no_problem(study, Terminal(), InputError("first: x"))


def test_an_error_is_a_problem_of_the_key_that_it_starts_with() -> None:
    assert Problem.of(InputError("pool.0.path: x: y"), "pool") == Problem("pool.0.path", "x: y")
    assert Problem.of(InputError("file x: y is not there"), "pool") == Problem("pool", "file x: y is not there")
    assert str(Problem("a.b", "c")) == "a.b: c"


def test_a_named_column_that_no_row_has_ends_the_command_with_the_one_that_is_near(
    run: Callable[..., Result], write_rows: Callable[..., Path], tmp_path: Path
) -> None:
    rows = [{"ask": f"{number}?", "context": "a", "reply": "b"} for number in range(9)]
    path = str(write_rows("own.jsonl", rows))

    def pool(**columns: str) -> str:
        return json.dumps([{"path": path, "columns": {"prompt": "ask", "answer": "reply", **columns}}])

    result = run(f"pool={pool(input='contxt')}")
    assert result.exit_code == 2
    assert "pool.0.columns.input: no row has a column contxt; did you mean context?" in result.stderr
    result = run(f"pool={pool(history='said')}")
    assert "pool.0.columns.history: no row has a column said; they have ask, context, reply" in result.stderr
    assert isinstance(run(f"pool={pool(input='context')}").exception, _Started)
    # Rows of different keys, more than are looked at: a later one may have it.
    write_rows("own.jsonl", [*rows, *({"ask": f"{number}!", "reply": "b"} for number in range(300))])
    result = run(f"pool={pool(history='said')}")
    assert isinstance(result.exception, _Started)
    assert (
        "note: pool.0.columns.history: none of the first rows has a column said; they have ask, context"
        in result.output
    )
