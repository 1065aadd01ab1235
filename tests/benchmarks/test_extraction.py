"""The extraction benchmark on a two-layer Llama: every line is there, and every contender does what its line says."""

import gzip
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import bergson_index
from benchmarks.contenders import catalogue, less_directions, make_engine
from benchmarks.cosines import bf16_differences, cosines, exact_cosines, sketch_errors, spread, upper
from benchmarks.extraction import main
from benchmarks.projection import project
from benchmarks.timing import Contender, PeakMemory, Timing, UnavailableError, measure
from benchmarks.workload import ModelSpec, Workload, encode, prepare_models, read_rows, synthetic_rows
from instsel.data import chat
from instsel.data.batching import token_budget_batches
from instsel.gradients.adam import update_direction

CONVERSATIONS = [
    [
        {"role": "user", "content": f"A basket holds {n} figs, and {n % 7} more come. How many?"},
        {"role": "assistant", "content": f"{n + n % 7} figs" * (1 + n % 3)},
    ]
    for n in range(14)
]


@pytest.fixture(scope="module")
def work() -> Workload:
    rows = [
        {key: values[n % 5 :] for key, values in row.items()} for n, row in enumerate(synthetic_rows(14, 24, 384, 0))
    ]
    spec = ModelSpec(None, "tiny", 4, "cpu", 0)
    models, moments = prepare_models(spec, ["fp32", "bf16"], rows[6:], 3)
    batches = token_budget_batches([len(row["input_ids"]) for row in rows[:6]], 60)
    return Workload(models, moments, rows[:6], batches, 60, 64, 3, 0, "cpu")


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


@pytest.mark.long
def test_the_report_has_every_line(tiny_model: Path, write_rows: Any, tmp_path: Path) -> None:
    rows = write_rows("rows.jsonl", [{"messages": messages} for messages in CONVERSATIONS])
    out = tmp_path / "results" / "report.md"
    arguments = ["--model", str(tiny_model), "--rows", str(rows), "--count", "6", "--less-rows", "3", "--rounds", "1"]
    arguments += ["--dim", "64", "--error-dims", "16", "64", "--sketch-seeds", "2", "--budget", "100"]
    assert main([*arguments, "--warmup-steps", "2", "--threads", "1", "--out", str(out)]) == 0
    text = out.read_text(encoding="utf-8")
    for fact in (
        "date",
        "processor",
        "versions",
        "command",
        "model",
        "warm-up",
        "rows",
        "batches",
        "threads",
        "rounds",
    ):
        assert f"\n- {fact}: " in text, fact
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in text.splitlines() if line.startswith("| ")}
    for name in catalogue():
        assert name in lines
        assert f"\n- {name}: " in text
    assert lines["step-fp32"].split(" | ")[3] == "1.00"
    assert lines["less-fp32"].split(" | ")[1] == "3"
    for kind in ("plain gradients", "Adam directions"):
        assert all(f"| {kind} | {dim} | " in text for dim in (16, 64))
    assert {"plain with plain", "Adam with Adam", "Adam with plain (influence)"} <= lines.keys()
    assert {"tokens/s", "ratio (at least 1.6)"} <= lines.keys()


@pytest.mark.long
def test_it_runs_where_ray_deepspeed_and_pydantic_are_absent() -> None:
    script = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(['ray', 'deepspeed', 'pydantic']))\n"
        "import instsel.gradients.engine\n"
        "from benchmarks.extraction import main\n"
        "only = ['step-*', 'engine-*', 'less-*', '*-error']\n"
        "main(['--random-llama', 'tiny', '--rank', '2', '--length', '16', '--count', '3', '--dim', '16',"
        " '--error-dims', '16', '--rounds', '1', '--warmup-steps', '1', '--threads', '1', '--only', *only])\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "| engine-bf16-adam | 3 | " in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--random-llama", "tiny", "--only", "engine"], "nothing is called 'engine'"),
        (["--random-llama", "tiny", "--rows", "rows.jsonl"], "--rows needs --model"),
        (["--random-llama", "tiny", "--rounds", "0"], "0; expected at least 1"),
        (["--random-llama", "tiny", "--dim", "100"], "expected a multiple of 8"),
        (["--model", "MODEL", "--rows", "none.jsonl"], "none.jsonl does not exist"),
        (["--model", "MODEL", "--rows", "ROWS", "--count", "7"], "has 14 rows; 15 are needed"),
        (["--model", "MODEL", "--rows", "BROKEN", "--count", "1"], "broken.jsonl, line 2"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused_with_the_reason(
    tiny_model: Path, write_rows: Any, capsys: Any, arguments: list[str], said: str
) -> None:
    rows = [{"messages": messages} for messages in CONVERSATIONS]
    places = {
        "MODEL": tiny_model,
        "ROWS": write_rows("rows.jsonl", rows),
        "BROKEN": write_rows("broken.jsonl", [rows[0], {"messages": CONVERSATIONS[0][:1]}]),
    }
    with pytest.raises(SystemExit) as ended:
        main([str(places.get(argument, argument)) for argument in arguments])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_answers_are_marked_as_the_project_marks_them(tiny_tokenizer: Any) -> None:
    for messages in [*CONVERSATIONS[:3], CONVERSATIONS[0] + CONVERSATIONS[1]]:
        expected = chat.encode(tiny_tokenizer, messages, max_length=1000)
        assert encode(tiny_tokenizer, messages) == {"input_ids": expected.input_ids, "labels": expected.labels}


def test_both_dtypes_hold_the_same_trained_matrices(work: Workload) -> None:
    full, half = (weights(work.models[dtype]) for dtype in ("fp32", "bf16"))
    for name, value in full.items():
        assert torch.equal(value, half[name].float()), name
    trained = [value for name, value in full.items() if "lora_B" in name]
    assert all(value.abs().max() > 0 for value in trained)
    assert all((second >= 0).all() and second.max() > 0 for _, second in work.moments.values())


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_training_step_leaves_the_weights_and_what_is_trainable_alone(work: Workload, dtype: str) -> None:
    model = work.models[dtype]
    before, trainable = weights(model), {name for name, value in model.named_parameters() if value.requires_grad}
    catalogue()[f"step-{dtype}"](work).start()()
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    assert {name for name, value in model.named_parameters() if value.requires_grad} == trainable


def test_less_takes_the_directions_that_the_engine_sketches(work: Workload) -> None:
    found = less_directions(work.models["fp32"], work.moments, work.examples, "cpu")()
    exact = make_engine(work, "fp32", adam=False).gradients(work.examples)
    names = [name for name, value in work.models["fp32"].named_parameters() if value.requires_grad]
    expected = torch.cat([update_direction(exact[name], *work.moments[name]).flatten(1) for name in names], dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_projection_is_a_dense_matrix_of_signs_whatever_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    size, dim = 70, 32
    monkeypatch.setattr("benchmarks.projection._ENTRIES_PER_BLOCK", 16 * dim)
    matrix = project(torch.eye(size), dim, seed=3) * dim**0.5
    assert (matrix.abs() - 1).abs().max() < 1e-6
    assert abs(matrix.mean()) < 4 / np.sqrt(size * dim)
    # No row comes twice, nor does a block.
    assert len({tuple(row) for row in matrix.tolist()}) == size
    rows = torch.randn(5, size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(project(rows, dim, seed=3), rows @ matrix / dim**0.5)
    assert not torch.equal(project(rows, dim, seed=4), project(rows, dim, seed=3))


def test_cosines_and_their_spread_equal_naive_ones() -> None:
    random = np.random.default_rng(0)
    parts = {"a": random.normal(size=(4, 2, 3)), "b": random.normal(size=(4, 5))}
    flat = np.concatenate([value.reshape(4, -1) for value in parts.values()], axis=1)
    naive = [[x @ y / np.linalg.norm(x) / np.linalg.norm(y) for y in flat] for x in flat]
    np.testing.assert_allclose(exact_cosines({name: torch.tensor(v) for name, v in parts.items()}), naive)
    np.testing.assert_allclose(cosines(torch.tensor(flat), torch.tensor(flat[:2])), np.array(naive)[:, :2])
    assert upper(torch.arange(9).view(3, 3)).tolist() == [1, 2, 5]
    found = spread(torch.tensor([3.0, -5.0]))
    assert (found.mean, found.largest) == (-1.0, 5.0)
    assert found.rms == pytest.approx(17**0.5)


def test_the_sketch_is_exact_when_it_has_a_bucket_for_every_entry(work: Workload) -> None:
    # One parameter alone, so that no two parameters meet in a bucket.
    model = work.models["fp32"]
    alone = next(name for name in work.moments if "lora_B" in name)
    others = [value for name, value in model.named_parameters() if value.requires_grad and name != alone]
    only = Workload(**{**vars(work), "moments": {alone: work.moments[alone]}})
    try:
        for value in others:
            value.requires_grad_(False)
        wide, narrow = (sketch_errors(only, "fp32", [dim], seeds=2) for dim in (4096, 8))
    finally:
        for value in others:
            value.requires_grad_(True)
    assert [error.kind for error in wide] == ["plain gradients", "Adam directions"]
    assert all(error.over_seeds.largest < 1e-5 for error in wide)
    assert all(error.over_seeds.largest > 1e-2 for error in narrow)


def test_bf16_is_near_fp32_and_not_the_same(work: Workload) -> None:
    assert all(0 < found.largest < 0.1 for found in bf16_differences(work).values())


def test_contenders_take_turns_after_an_untimed_round(capsys: Any) -> None:
    calls: list[str] = []

    def contender(name: str, *, fails: bool = False) -> Contender:
        def start() -> Any:
            if fails:
                raise torch.OutOfMemoryError
            return lambda: calls.append(name)

        return Contender(name, "", 1, 10, start)

    timings, failed = measure([contender("a"), contender("b", fails=True), contender("c")], 2, "cpu")
    assert "".join(calls) == "acacac"
    assert failed == {"b": "out of memory"}
    assert all(len(timing.seconds) == 2 for timing in timings.values())
    assert "round 2 of 2: c" in capsys.readouterr().err


def test_a_ratio_is_taken_within_rounds() -> None:
    mine, theirs = (Contender(name, "", 1, tokens, lambda: lambda: None) for name, tokens in (("a", 30), ("b", 10)))
    assert Timing(mine, [1.0, 2.0, 9.0]).ratio(Timing(theirs, [1.0, 2.0, 1.0])) == 3.0
    assert Timing(mine, [2.0]).rates == [15.0]


def test_peak_memory_counts_what_was_freed_again() -> None:
    with PeakMemory("cpu") as memory:
        held = torch.ones(2**24)
        time.sleep(0.5)
        del held
    if Path("/proc/self/statm").exists():
        assert 60 * 2**20 < memory.peak_bytes < 200 * 2**20
    else:
        assert memory.peak_bytes is None


def test_without_bergson_its_line_says_so(work: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bergson_index, "find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match="bergson is not installed"):
        catalogue()["bergson-fp32"](work)


def test_bergson_writes_a_row_an_example_and_leaves_the_model_as_it_was(work: Workload) -> None:
    pytest.importorskip("bergson")
    model = work.models["fp32"]
    before = {name: value.requires_grad for name, value in model.named_parameters()}
    shape: Any = catalogue()["bergson-fp32"](work).start()()
    assert shape == (len(work.examples), len(work.moments) * 16 * 16)
    assert {name: value.requires_grad for name, value in model.named_parameters()} == before


def test_rows_are_read_from_gzip_too(tiny_model: Path, tmp_path: Path) -> None:
    lines = "".join(json.dumps({"messages": messages}) + "\n" for messages in CONVERSATIONS[:3])
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "rows.jsonl").write_text(lines, encoding="utf-8")
    packed, plain = (read_rows(str(tmp_path / name), str(tiny_model), 3, 4) for name in ("rows.jsonl.gz", "rows.jsonl"))
    assert packed == plain
    assert len(plain) == 3
