"""Answers are scored as lm-eval scores them, once each, for the base model and every run."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import instsel
from instsel.config.file import parse_study
from instsel.config.study import StudyConfig
from instsel.console import Terminal
from instsel.errors import InputError, StudyError
from instsel.io.store import Folder
from instsel.models.loading import attach_lora, load_base
from instsel.pipeline.accuracy import _count_items
from instsel.pipeline.runner import run_study
from instsel.pipeline.scorer import Scorer
from instsel.planner.run import plan_study
from tests.toy import CITIES, write_jsonl

YAML = """\
task: toy_cities
dataset_path: json
dataset_kwargs: {{data_files: {{train: {folder}/train.jsonl, test: {folder}/test.jsonl}}}}
training_split: train
test_split: test
output_type: multiple_choice
doc_to_text: "Where does train {{{{number}}}} go?"
doc_to_choice: cities
doc_to_target: right
target_delimiter: ""
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 3}}
"""


BY = {"letters": "letter", "texts": "cloze", "pmi": "pmi"}
# An evaluation of one's own: an item is right where an adapter is merged into the model.
OWN = """\
import json, pathlib, sys
model, adapter, merged, out = sys.argv[1:]
assert pathlib.Path(merged, "model.safetensors").exists() and pathlib.Path(merged, "tokenizer.json").exists()
assert not adapter or pathlib.Path(adapter, "adapter_model.safetensors").exists()
print("evaluated")
with open(out, "w") as file:
    for item in ("one", "two"):
        file.write(json.dumps({"target": "own", "item": item, "correct": merged != model}) + "\\n")
"""


def write_task(folder: Path) -> Path:
    rows = [{"number": n, "cities": CITIES[n % 5 : n % 5 + 3], "right": n % 3} for n in range(12)]
    write_jsonl(folder / "train.jsonl", rows[:6])
    write_jsonl(folder / "test.jsonl", rows[6:])
    path = folder / "cities.yaml"
    path.write_text(YAML.format(folder=folder))
    return path


@pytest.fixture(scope="module")
def scored(
    tmp_path_factory: pytest.TempPathFactory, study_writer: Callable[..., dict[str, Any]], ray_session: None
) -> StudyConfig:
    """A study with a task, a target with test rows of its own and a guard, run to its scores."""
    folder = tmp_path_factory.mktemp("accuracy")
    raw = study_writer(folder, selection={"budget": 0.25, "methods": ["random"]})
    questions = [f"A basket holds {n} figs, and {n} more figs come. How many?" for n in range(2000, 2005)]
    sums = [{"messages": [{"role": "user", "content": q}], "answer": ["1", "2"]} for q in questions]
    write_jsonl(folder / "sums-test.jsonl", [*sums, {"messages": [{"role": "user", "content": "No answer."}]}])
    letters = [
        {"messages": [{"role": "user", "content": f"Letter {n}?\nA. alpha\nB. beta\nAnswer:"}], "answer": "AB"[n % 2]}
        for n in range(4)
    ]
    write_jsonl(folder / "letters-test.jsonl", letters)
    raw["targets"]["sums"] |= {"test": "sums-test.jsonl", "scoring": {"metric": "f1", "max_tokens": 4}}
    raw["targets"]["cities"] = {"task": str(write_task(folder)), "max_validation": 4}
    choices = {"test": "letters-test.jsonl", "scoring": "choice"}
    raw["guards"] = {name: {**choices, "by": by} for name, by in BY.items()} | {"own": {}}
    (folder / "own.py").write_text(OWN)
    command = f"{sys.executable} {folder}/own.py {{model}} {{adapter}} {{merged}} {{out}}"
    raw["evaluation"] = {"command": {"run": command, "scores": ["own"]}}
    study = parse_study(raw, "test")
    run_study(study, Terminal())
    return study


def items(study: StudyConfig, run: str, target: str) -> list[dict[str, Any]]:
    return (Folder.at(study.out) / "accuracy" / run).read_table(f"{target}.parquet").to_pylist()


def test_base_and_runs_are_scored_on_targets_and_guards(scored: StudyConfig) -> None:
    for run in ("base", "random"):
        manifest = json.loads(Path(scored.out, "accuracy", run, "manifest.json").read_text())
        scores = manifest["result"]["scores"]
        counts = {name: score["items"] for name, score in scores.items()}
        assert counts == {"sums": 5, "cities": 6, "letters": 4, "texts": 4, "pmi": 4, "own": 2}
        assert "probability" not in scores["sums"] and 0 < scores["cities"]["probability"] < 1
        assert manifest["result"]["settings"]["cities"]["version"] == "3"
    manifest = json.loads(Path(scored.out, "benchmarks", "manifest.json").read_text())
    assert manifest["result"]["tasks"]["sums"]["rejected"] == {"no `answer` and no assistant turn": 1}


def test_a_tasks_training_rows_select_and_its_test_rows_are_held_out(scored: StudyConfig) -> None:
    rows = {
        split: (Folder.at(scored.out) / "prepare/targets/cities").read_table(f"{split}.parquet")["messages"].to_pylist()
        for split in ("validation", "heldout")
    }
    assert (len(rows["validation"]), len(rows["heldout"])) == (4, 6)
    numbers = {split: {row[0]["content"] for row in of_split} for split, of_split in rows.items()}
    assert numbers["validation"] < {f"Where does train {n} go?" for n in range(6)}
    assert numbers["heldout"] == {f"Where does train {n} go?" for n in range(6, 12)}
    written = Path(scored.out, "benchmarks/cities/validation.jsonl").read_text().splitlines()
    assert all(set(json.loads(line)["choices"]) < set(CITIES) for line in written)
    first = next(row for row in rows["heldout"] if "train 6 " in row[0]["content"])
    assert first[1] == {"role": "assistant", "content": CITIES[1]}


@pytest.mark.parametrize("target", ["sums", "cities", "letters", "texts", "pmi"])
def test_scores_are_those_of_lm_eval_by_hand(
    scored: StudyConfig, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    written = Path(scored.out, "accuracy/base/tasks", target)
    if target == "cities":
        path = scored.targets["cities"].task
    else:
        shutil.copytree(written, tmp_path / "task")
        monkeypatch.chdir(tmp_path / "task")
        path = "task.yaml"
    done = simple_evaluate(
        model="hf",
        model_args={"pretrained": scored.model.name, "dtype": "float32", "device": "cpu"},
        tasks=[path],
        task_manager=TaskManager(include_defaults=False),
        batch_size=2,
        bootstrap_iters=0,
        apply_chat_template=True,
    )
    (samples,) = done["samples"].values()
    metric = {"sums": "f1", "texts": "acc_norm", "pmi": "acc_mutual_info"}.get(target, "acc")
    ours = items(scored, "base", target)
    assert [row["correct"] for row in ours] == [sample[metric] for sample in samples]
    if target == "sums":
        assert [row["answer"] for row in ours] == [sample["filtered_resps"][0] for sample in samples]


def test_a_command_of_ones_own_scores_adapters_and_merged_models(scored: StudyConfig) -> None:
    assert [row["correct"] for row in items(scored, "base", "own")] == [0.0, 0.0]
    assert [row["correct"] for row in items(scored, "random", "own")] == [1.0, 1.0]
    assert Path(scored.out, "accuracy/random/command.log").read_text() == "evaluated\n"
    guard = instsel.open_study(scored.out).summary["accuracy"]["guards"]["random"]["own"]
    assert (guard["judgement"], guard["difference"]["difference"]) == ("non-inferior", 1.0)


def test_what_is_scored_is_kept_and_only_the_rest_is_done_again(scored: StudyConfig) -> None:
    folder = Path(scored.out, "accuracy", "random")
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.glob("*.parquet")}
    (folder / "manifest.json").unlink()
    (folder / "cities.parquet").unlink()
    run_study(scored, Terminal())
    after = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.glob("*.parquet")}
    assert {name: content for name, (_, content) in before.items()} == {n: content for n, (_, content) in after.items()}
    assert {name for name in before if before[name][0] != after[name][0]} == {"cities.parquet"}


def test_pool_rows_that_are_test_rows_are_rejected(scored: StudyConfig, tmp_path: Path) -> None:
    question = "A basket holds 2001 figs, and 2001 more figs come. How many?"
    leak = {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": "1"}]}
    write_jsonl(tmp_path / "leak.jsonl", [leak])
    raw = scored.model_dump(mode="json")
    raw["pool"].append({"path": str(tmp_path / "leak.jsonl")})
    raw["out"] = str(tmp_path / "study")
    run_study(parse_study(raw, "test"), Terminal(), "prepare")
    rejected = Folder.at(raw["out"]) / "prepare/rejected"
    reasons = [row["reason"] for name in rejected.names() for row in rejected.read_table(name).to_pylist()]
    assert reasons == ["shares a run of words with a target"]


def test_test_rows_that_are_validation_rows_are_rejected(scored: StudyConfig, tmp_path: Path) -> None:
    """A test row is one of its own target's validation rows, and one is the task's; letters of a guard are neither."""
    folder = Folder.at(scored.out)
    shown = [
        (folder / "prepare/targets" / name).read_table("validation.parquet")["messages"].to_pylist()[0]
        for name in ("sums", "cities")
    ]
    lines = Path(scored.root, "sums-test.jsonl").read_text(encoding="utf-8").splitlines()
    tests = [{"messages": messages[:1], "answer": "another answer"} for messages in shown]
    write_jsonl(tmp_path / "test.jsonl", [json.loads(lines[0]), *tests])
    raw = scored.model_dump(mode="json")
    raw["targets"]["sums"]["test"], raw["out"] = str(tmp_path / "test.jsonl"), str(tmp_path / "study")
    run_study(parse_study(raw, "test"), Terminal(), "benchmarks")
    tasks = json.loads((tmp_path / "study/benchmarks/manifest.json").read_text(encoding="utf-8"))["result"]["tasks"]
    assert tasks["sums"]["items"] == 1
    assert tasks["sums"]["rejected"] == {f"also a validation row of target {name}": 1 for name in ("sums", "cities")}
    assert tasks["letters"]["rejected"] == {}


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("nowhere.yaml", r"targets\.cities\.task: file nowhere\.yaml cannot be read; correct the path"),
        ("gsm8kk", r"targets\.cities\.task: lm-eval has no task 'gsm8kk'; did you mean gsm8k"),
        ("mmlu", r"targets\.cities\.task: mmlu is a group of tasks; name one of its tasks"),
    ],
)
def test_a_task_that_cannot_be_had_is_named(scored: StudyConfig, task: str, message: str, tmp_path: Path) -> None:
    raw = scored.model_dump(mode="json")
    raw["targets"]["cities"]["task"], raw["out"] = task, str(tmp_path / "study")
    with pytest.raises(InputError, match=message):
        run_study(parse_study(raw, "test"), Terminal(), "benchmarks")


def scorer(study: StudyConfig, adapter: Path, out: Path) -> Scorer:
    return Scorer(1, study, {"random": Folder.at(adapter)}, {"random": Folder.at(out).create()})


def rows_of(study: StudyConfig, target: str) -> tuple[list[str], list[dict[str, Any]]]:
    table = (Folder.at(study.out) / "benchmarks" / target).read_table("test.parquet")
    return table["id"].to_pylist(), table.to_pylist()


def test_an_adapter_that_changes_nothing_is_an_error(scored: StudyConfig, tmp_path: Path) -> None:
    # Of a new adapter the second factors are zero.
    attach_lora(load_base(scored.model), scored.lora, 0).save_pretrained(tmp_path / "adapter")
    with pytest.raises(StudyError, match="the adapter of random changes no logit of the model"):
        scorer(scored, tmp_path / "adapter", tmp_path / "out")(
            {"run": "random", "target": "sums", "rows": "sums/test.parquet"}, *rows_of(scored, "sums")
        )
    assert not (tmp_path / "out" / "sums.parquet").exists()


@pytest.mark.parametrize(
    ("scoring", "message"),
    [
        ({"metric": "accuracy"}, r"targets\.cities\.task: task .* has no metric 'accuracy'; its metrics are acc"),
        ({"filter": "last"}, r"targets\.cities\.task: task .* has no filter 'last'; its filters are none"),
    ],
)
def test_what_a_task_does_not_have_is_named(
    scored: StudyConfig, scoring: dict[str, str], message: str, tmp_path: Path
) -> None:
    raw = scored.model_dump(mode="json")
    raw["targets"]["cities"]["scoring"] = scoring
    base = Scorer(1, parse_study(raw, "test"), {"base": None}, {"base": Folder.at(tmp_path).create()})
    with pytest.raises(InputError, match=message):
        base({"run": "base", "target": "cities", "rows": "cities/test.parquet"}, *rows_of(scored, "cities"))


def test_a_plan_counts_what_is_scored_before_any_stage_ran(scored: StudyConfig, tmp_path: Path) -> None:
    raw = scored.model_dump(mode="json")
    raw["out"] = str(tmp_path / "study")
    planned = plan_study(parse_study(raw, "test"), Terminal())
    stage = next(stage for stage in planned.stages if stage.name == "accuracy")
    assert stage.rows == 2 * (5 + 6 + 4 + 4 + 4)
    assert stage.seconds > 0
    assert not Path(raw["out"]).exists()


def test_bug_a_plan_counted_one_pass_for_options_that_are_scored_as_texts(scored: StudyConfig) -> None:
    by_name = dict(zip(scored.scored, _count_items(scored), strict=True))
    letters, texts, pmi = (by_name[name] for name in BY)
    assert [each.items for each in (letters, texts, pmi)] == [4, 4, 4]
    prompts = letters.passes
    assert len(prompts) == 4, "letters share a pass"
    assert texts.passes == [tokens for tokens in prompts for _ in range(2)], "alpha and beta have one each"
    # "alpha" and "beta" once more, without the question.
    assert sorted(pmi.passes) == sorted(texts.passes + [len("alpha") // 3 + 1, len("beta") // 3 + 1] * 4)
    assert len(by_name["cities"].passes) == 3 * by_name["cities"].items, "three cities a question"
    assert (len(by_name["sums"].passes), by_name["sums"].generated) == (5, 5 * 4)
