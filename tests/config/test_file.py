"""A study file on disk: YAML as people write it, `--set` of every kind, and errors that name file, line or override."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from instsel.config.file import dump_yaml, load_study, plain_values
from instsel.errors import InputError
from instsel.io.store import Folder

TEXT = """\
name: s
out: runs/s
model: {name: m}
pool:
  - path: a.jsonl
  - {path: b.jsonl, source: b}
targets:
  t: {validation: v.jsonl}
selection:
  budget: 0.1
  methods: [random, {method: bids, name: other}]
"""


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Any]:
    """Write a study file and load it."""

    def make(*overrides: str, text: str = TEXT) -> Any:
        path = tmp_path / "study.yaml"
        path.write_text(text, encoding="utf-8")
        return load_study(path, overrides)

    return make


@pytest.mark.parametrize(("text", "value"), [("5e-4", 5e-4), ("1E3", 1000.0), ("2.5e+1", 25.0), ("0.001", 0.001)])
def test_numbers_with_an_exponent_are_numbers(load: Callable[..., Any], text: str, value: float) -> None:
    assert load(text=f"{TEXT}finetune: {{learning_rate: {text}}}\n").finetune.learning_rate == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((word, word) for word in ("yes", "no", "on", "off", "Yes", "NO", "y", "n", "1:30", "12:30:45.5")),
        ("true", True),
        ("False", False),
        ("010", 10),
        ("08", 8),
        ("0o10", 8),
        ("0x10", 16),
        ("-.5", -0.5),
        ("1_000", 1000),
        (".inf", float("inf")),
        ("~", None),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    read = plain_values(f"key: {text}")["key"]
    assert (read, type(read)) == (value, type(value))


def test_a_file_may_ask_for_yaml_1_1() -> None:
    assert plain_values("%YAML 1.1\n---\n[yes, 010, 1:30]\n") == [True, 8, 90]


@pytest.mark.parametrize("word", ["yes", "off"])
def test_a_word_of_yaml_1_1_for_true_or_false_is_refused(load: Callable[..., Any], word: str) -> None:
    with pytest.raises(InputError, match=f"model.trust_remote_code: should be true or false, not '{word}'"):
        load(f"model.trust_remote_code={word}")


VALUES = {
    "z first": [
        "yes",
        "no",
        "1:30",
        "010",
        "5e-4",
        "~",
        "null",
        "",
        "-",
        "a: b",
        "# c",
        "{x}",
        "<<",
        "=",
        "2024-01-01",
    ],
    "a second": {"numbers": [5e-4, 1e-7, 1e300, 3, -0.5, float("inf")], "others": [None, True, False, [], {}]},
    "texts": ["é \U0001f600 \u2028", "two\nlines\n", " spaces ", "x" * 300 + " " + "y" * 300, "tab\t", "\x00", "'\""],
}


def test_what_is_written_is_read_again_in_its_order() -> None:
    read = plain_values(dump_yaml(VALUES))
    assert read == VALUES
    assert list(read) == list(VALUES)
    assert dump_yaml({"b": [1], "a": {"é": None}}) == "b:\n- 1\na:\n  é: null\n"


def test_parts_can_be_shared_by_anchors(load: Callable[..., Any]) -> None:
    study = load(text=f"{TEXT}finetune: &t {{seed: 3, epochs: 1}}\nwarmup:\n  <<: *t\n  epochs: 5\n")
    assert (study.warmup.seed, study.warmup.epochs, study.finetune.epochs) == (3, 5, 1)


@pytest.mark.parametrize(
    ("extra", "what"),
    [
        ("name: again\n", "study.yaml, line 12: key 'name' is written twice; keep one of them"),
        ("data:\n  max_length: 64\n  max_length: 65\n", "line 14: key 'max_length' is written twice"),
        ("data: {max_length: 64, max_length: 64}\n", "line 12: key 'max_length' is written twice"),
        ("data: {1: a, 0x1: b}\n", "study.yaml is not readable YAML: while constructing a mapping"),
        ("data:\n  <<: {seed: 1}\n  max_length: 64\n  max_length: 65\n", "line 15: key 'max_length' is written twice"),
        ("data:\n  <<: {seed: 1}\n  <<: {seed: 2}\n", "line 14: key '<<' is written twice"),
        ("data:\n  max_length: {{length}}\n", "line 13: a key is no plain text"),
        ("data: [\n", "study.yaml is not readable YAML"),
        ("data:\n\tmax_length: 64\n", "study.yaml is not readable YAML"),
        ("data: !!python/object/apply:os.getcwd []\n", "study.yaml is not readable YAML"),
        ("data: *nothing\n", "study.yaml is not readable YAML"),
        ("data: 2024-13-01\n", "study.yaml is not readable YAML"),
        ("data: 0x_\n", "study.yaml is not readable YAML"),
        ("---\nname: another\n", "study.yaml is not readable YAML"),
    ],
)
def test_broken_yaml_is_told_by_file_and_line(load: Callable[..., Any], extra: str, what: str) -> None:
    with pytest.raises(InputError) as error:
        load(text=TEXT + extra)
    assert what in str(error.value)


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n", "only words\n"])
def test_a_file_without_keys_is_refused(load: Callable[..., Any], text: str) -> None:
    with pytest.raises(InputError, match="holds no keys; a study file starts with `name:`"):
        load(text=text)


def test_a_missing_file_a_folder_and_bytes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml does not exist; give the path of a YAML file"):
        load_study(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="is a folder; give the path of a YAML file"):
        load_study(tmp_path)
    (tmp_path / "bytes.yaml").write_bytes(b"name: \xff\xfe\n")
    with pytest.raises(InputError, match=r"bytes\.yaml is not readable YAML"):
        load_study(tmp_path / "bytes.yaml")


def test_a_study_file_may_be_in_a_store(object_store: object, tmp_path: Path) -> None:
    place = "s3://studies/one/search"
    Folder.at(place).write("best.yaml", TEXT.encode())
    (tmp_path / "here.yaml").write_text(TEXT)
    assert load_study(f"{place}/best.yaml", ["selection.budget=5"]).selection.budget == 5
    assert load_study(f"{place}/best.yaml") == load_study(tmp_path / "here.yaml")
    for missing in (f"{place}/none.yaml", "s3://studies/one/search", "s3://no-such-bucket/a.yaml"):
        with pytest.raises(InputError, match=f"study file {missing} does not exist; give the place of a YAML file"):
            load_study(missing)


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("selection.budget=5", "selection.budget", 5),
        ("selection.budget=0.5", "selection.budget", 0.5),
        ("selection.budget=1e-3", "selection.budget", 0.001),
        ("data.max_length=64", "data.max_length", 64),
        ("model.trust_remote_code=true", "model.trust_remote_code", True),
        ("model.revision=null", "model.revision", None),
        ("lora.target_modules=[q_proj]", "lora.target_modules", ["q_proj"]),
        ("out=a=b", "out", "a=b"),
        ("out=s3://bucket/folder", "out", "s3://bucket/folder"),
        ("pool.1.path=c.jsonl", "pool.1.path", "c.jsonl"),
        ("pool.0={path: c.jsonl}", "pool.0.path", "c.jsonl"),
        ("targets.u.validation=u.jsonl", "targets.u.validation", "u.jsonl"),
        ("selection.methods=[less]", "selection.methods.0.name", "less"),
        ("selection.methods.1.normalize=false", "selection.methods.1.normalize", False),
        ("selection.methods.0=less", "selection.methods.0.method", "less"),
    ],
)
def test_an_override_reaches_its_key(load: Callable[..., Any], override: str, path: str, value: Any) -> None:
    found = load(override)
    for part in path.split("."):
        found = (
            found[int(part)]
            if isinstance(found, list)
            else found[part]
            if isinstance(found, dict)
            else getattr(found, part)
        )
    assert (found, type(found)) == (value, type(value))


def test_of_two_overrides_the_later_one_counts(load: Callable[..., Any]) -> None:
    assert load("data.max_length=64", "data.max_length=65").data.max_length == 65


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("selection.budget", "write it as key=value"),
        ("=3", "write it as key=value"),
        ("", "write it as key=value"),
        ("name.x=3", "the key above 'x' holds a value, not keys"),
        ("name.x.y=3", "the key above 'x' holds a value, not keys"),
        ("pool.2.path=x", "'2' is no place in a list of 2; places count from 0"),
        ("pool.-1.path=x", "'-1' is no place in a list of 2"),
        ("pool.first.path=x", "'first' is no place in a list of 2"),
        ("pool.\u00b2.path=x", "'\u00b2' is no place in a list of 2"),
        ("pool.2=x", "'2' is no place in a list of 2"),
        ("data.max_length=[", "the value is not readable YAML"),
        ("data.max_length=*x", "the value is not readable YAML"),
        ("data={max_length: 64, max_length: 65}", "key 'max_length' is written twice"),
    ],
)
def test_a_wrong_override_is_told_by_itself(load: Callable[..., Any], override: str, what: str) -> None:
    with pytest.raises(InputError) as error:
        load(override)
    assert str(error.value).startswith(f"--set {override}: ")
    assert what in str(error.value)


@pytest.mark.parametrize(
    ("override", "key", "meaning"),
    [
        ("data.maxlength=64", "data.maxlength: unknown key", "conversion of rows to examples"),
        ("data.max_length=long", "data.max_length: should be a valid integer, not 'long'", "longest example in tokens"),
        ("lora.rank=", "lora.rank: should be a valid integer, not None", "rank of the LoRA matrices"),
        ("selection.budget=-1", "selection.budget: budget is -1", "rows to choose"),
        ("selection.methods=[bids,bids]", "selection.methods: two methods are called 'bids'", "selections to make"),
    ],
)
def test_an_override_is_checked_like_the_file(load: Callable[..., Any], override: str, key: str, meaning: str) -> None:
    with pytest.raises(InputError) as error:
        load(override)
    assert f"study.yaml has a wrong key:\n  {key}" in str(error.value)
    assert meaning in str(error.value)


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (BOMB + "name: *a11", "with all its aliases .* more than 100,000 values"),
        (BOMB.replace("[", "{<<: [").replace("]", "]}").replace("x, " * 8 + "x", "{k: v}"), "more than 100,000 values"),
        ("name: &a [*a]", "nested too deep"),
        (f"name: {'[' * 5000}{']' * 5000}", "nested too deep"),
        ("".join(f"{' ' * level}a:\n" for level in range(1000)), "nested too deep"),
        ("name: !!python/object/apply:os.mkdir [ran]", "not readable YAML"),
        ("name: !!python/name:os.mkdir", "not readable YAML"),
    ],
    ids=["aliases", "merges", "an alias of itself", "brackets", "indents", "a call", "a name"],
)
def test_a_file_that_would_fill_the_memory_or_run_code_is_refused(
    text: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(text)
    with pytest.raises(InputError, match=why):
        load_study(tmp_path / "study.yaml")
    assert not (tmp_path / "ran").exists()


def test_a_long_value_is_told_in_part(load: Callable[..., Any]) -> None:
    with pytest.raises(InputError) as error:
        load(f"model.name=[{'x' * 5000}]")
    assert len(str(error.value)) < 500
