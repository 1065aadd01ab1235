"""Inputs are told apart by content: same bytes, same identity; other bytes, another."""

import copy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import xxhash

from instsel.errors import InputError
from instsel.io.fingerprint import (
    digest_in,
    file_identity,
    fingerprint,
    tokenizer_identity,
)
from instsel.io.model_files import encoder_identity, model_identity
from instsel.io.store import Folder


@pytest.mark.process
def test_equal_values_have_equal_fingerprints_in_any_process() -> None:
    value = {"b": [1, 2.5, None, True], "a": {"é": "x"}}
    code = (
        "from instsel.io.fingerprint import fingerprint\n"
        "print(fingerprint({'a': {'é': 'x'}, 'b': [1, 2.5, None, True]}))"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert fingerprint(value) == other.stdout.strip()


@pytest.mark.parametrize("other", [{"a": 2}, {"a": "1"}, {"a": True}, {"a": [1]}, {"b": 1}, {}, {"a": 1, "b": None}])
def test_other_values_have_other_fingerprints(other: dict[str, object]) -> None:
    assert fingerprint({"a": 1}) != fingerprint(other)


def test_a_file_is_its_content_wherever_it_lies(tmp_path: Path) -> None:
    for name, text in (("a", "text"), ("b", "text"), ("c", "texT"), ("d", "text\n")):
        (tmp_path / name).write_text(text)
    a, b, c, d = (file_identity(str(tmp_path / name)) for name in "abcd")
    assert a == b == file_identity(f"file://{tmp_path}/a")
    assert len({found["digest"] for found in (a, c, d)}) == 3
    assert (a["bytes"], d["bytes"]) == (4, 5)


def test_fault_09_every_byte_of_a_large_file_counts(tmp_path: Path) -> None:
    size = 34 << 20
    # Between two of the 16 MiB of which the fingerprint was made.
    for change in (None, 1_500_000, size // 2, size - 1_500_000):
        content = bytearray(size)
        if change is not None:
            content[change] = 1
        (tmp_path / f"large-{change}").write_bytes(content)
    digests = {str(file_identity(str(each))["digest"]) for each in tmp_path.iterdir()}
    assert len(digests) == 4


def test_fault_09_every_byte_of_the_weights_of_a_model_counts(tiny_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "copy")
    (folder / "model.safetensors").write_bytes(bytes(34 << 20))
    before = model_identity(str(folder), None)
    with (folder / "model.safetensors").open("r+b") as stream:
        stream.seek(1_500_000)
        stream.write(b"x")
    after = model_identity(str(folder), None)
    assert {name for name in before if before[name] != after[name]} == {"model.safetensors"}


def test_fault_09_an_object_is_told_by_the_checksum_of_its_store(object_store: Any) -> None:
    folder = Folder.at("s3://studies/pool")
    folder.write("rows.jsonl", b"one\n")
    one = file_identity("s3://studies/pool/rows.jsonl")
    assert str(one["digest"]).startswith("etag:")
    folder.write("again.jsonl", b"one\n")
    folder.write("rows.jsonl", b"two\n")
    assert file_identity("s3://studies/pool/again.jsonl") == one != file_identity("s3://studies/pool/rows.jsonl")
    # What a study wrote itself is told by its bytes, wherever the study is.
    assert digest_in(folder, "rows.jsonl") == xxhash.xxh3_128_hexdigest(b"two\n")


def test_fault_09_an_object_without_a_checksum_is_read() -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    for name, content in {"a": b"rows", "b": b"rows", "c": b"rowS"}.items():
        memory.pipe(f"/fingerprints/{name}", content)
    a, b, c = (file_identity(f"memory://fingerprints/{name}") for name in "abc")
    assert a == b != c
    assert a["digest"] == xxhash.xxh3_128_hexdigest(b"rows")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"file .*/none does not exist; correct the path"):
        file_identity(str(tmp_path / "none"))
    with pytest.raises(InputError, match=r"is a folder, but a file is expected; write .*/\*\.jsonl"):
        file_identity(f"{tmp_path}/")


def test_a_model_folder_is_its_files_wherever_it_lies(tiny_model: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_model, tmp_path / "copy")
    (copy / "README.md").write_text("of no meaning")
    same = model_identity(str(tiny_model), None)
    assert same == model_identity(str(copy), None)
    assert {"config.json", "tokenizer.json", "model.safetensors"} <= set(same)


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "tokenizer.json", "pytorch_model.bin", "merges.txt"]
)
def test_a_changed_model_file_is_another_model(name: str, tiny_model: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_model, tmp_path / "copy")
    with (copy / name).open("ab") as stream:
        stream.write(b" ")
    assert model_identity(str(copy), None) != model_identity(str(tiny_model), None)


def test_a_hub_model_is_its_name_and_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert model_identity("owner/name", "main") == {"hub": "owner/name", "revision": "main"}


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model\.name: .* is a folder without a config\.json"):
        model_identity(str(tmp_path), None)


def test_a_file_in_a_folder_has_the_digest_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("text")
    assert digest_in(Folder.at(tmp_path), "a") == file_identity(str(tmp_path / "a"))["digest"]


def test_a_tokenizer_is_told_by_what_it_does(tiny_model: Path, tiny_tokenizer: Any) -> None:
    from transformers import AutoTokenizer

    ours = tokenizer_identity(tiny_tokenizer)
    assert tokenizer_identity(AutoTokenizer.from_pretrained(tiny_model)) == ours

    larger = copy.deepcopy(tiny_tokenizer)
    larger.add_tokens(["<new>"])
    other_end = copy.deepcopy(tiny_tokenizer)
    other_end.eos_token = other_end.pad_token
    for other in (larger, other_end):
        assert tokenizer_identity(other)["tokenizer"] != ours["tokenizer"]
        assert tokenizer_identity(other)["template"] == ours["template"]

    reworded = copy.deepcopy(tiny_tokenizer)
    reworded.chat_template += " "
    assert tokenizer_identity(reworded)["tokenizer"] == ours["tokenizer"]
    assert tokenizer_identity(reworded)["template"] != ours["template"]


def test_a_tokenizer_written_in_python_is_told_by_its_vocabulary() -> None:
    from transformers import ByT5Tokenizer

    ours = tokenizer_identity(ByT5Tokenizer())
    assert ours == tokenizer_identity(ByT5Tokenizer())
    assert ours["tokenizer"] != tokenizer_identity(ByT5Tokenizer(extra_ids=10))["tokenizer"]


def test_an_encoder_is_its_files_and_how_its_modules_are_configured(tiny_encoder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    shutil.copytree(tiny_encoder, folder)
    before = encoder_identity(str(folder), None)
    assert before == encoder_identity(str(tiny_encoder), None)
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    after = encoder_identity(str(folder), None)
    assert {name for name in before if before[name] != after[name]} == {"1_Pooling/config.json"}
    assert encoder_identity("owner/encoder", "main") == {"hub": "owner/encoder", "revision": "main"}


def test_a_folder_that_is_no_encoder_is_refused_by_its_key(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^embedding\.encoder: .* without a config\.json"):
        encoder_identity(str(tmp_path), None)
