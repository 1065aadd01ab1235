import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from instsel.errors import InputError, StudyError
from instsel.training.checkpoint import (
    CheckpointState,
    check_finite,
    load_adapter,
    read_checkpoint,
    trainable,
    write_checkpoint,
)

STATE = CheckpointState(epoch=2, step=6, learning_rate=1e-3, betas=(0.9, 0.99), eps=1e-6)


@pytest.fixture
def model(worker):
    return worker.lora_model()


@pytest.fixture
def written(tmp_path: Path, model) -> Path:
    """A checkpoint whose moments are 1 and 2, whose weights are 3."""
    full = {name: torch.full_like(parameter, 3.0).detach() for name, parameter in trainable(model).items()}
    moments = {name: (torch.ones_like(weight), 2 * torch.ones_like(weight)) for name, weight in full.items()}
    write_checkpoint(tmp_path, model, full, moments, STATE)
    return tmp_path


def test_what_is_written_is_read(written: Path, model):
    moments, state = read_checkpoint(written, model)
    assert list(moments) == list(trainable(model))
    assert all((first == 1).all() and (second == 2).all() for first, second in moments.values())
    assert state == STATE
    assert set(load_file(written / "moments.safetensors")) == {
        f"{key}/{name}" for key in ("exp_avg", "exp_avg_sq") for name in trainable(model)
    }
    load_adapter(written, model)
    assert all((parameter == 3).all() for parameter in trainable(model).values())


def test_any_user_of_peft_can_load_the_adapter(written: Path, model):
    loaded = PeftModel.from_pretrained(LlamaForCausalLM(model.get_base_model().config), str(written))
    weights = [parameter for name, parameter in loaded.named_parameters() if "lora_" in name]
    assert len(weights) == len(trainable(model))
    assert all((weight == 3).all() for weight in weights)


def test_bug_the_configuration_of_an_adapter_has_the_same_bytes_in_every_process(tmp_path: Path, model):
    # A set, whose order depends on the process.
    model.peft_config["default"].target_modules = {f"layer-{number:02d}" for number in range(20)}
    write_checkpoint(tmp_path, model, {}, {}, STATE)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["target_modules"] == [f"layer-{number:02d}" for number in range(20)]


def test_moments_of_another_rank_are_refused_by_name(written: Path, worker):
    with pytest.raises(InputError, match=r"exp_avg/.*q_proj\.lora_A.* has shape \(4, 64\), but .* \(8, 64\)"):
        read_checkpoint(written, worker.lora_model(rank=8))


def test_moments_of_other_parameters_are_refused_naming_the_first(written: Path, model):
    tensors = load_file(written / "moments.safetensors")
    gone = sorted(tensors)[:5]
    for name in gone:
        tensors[name + ".other"] = tensors.pop(name)
    save_file(tensors, written / "moments.safetensors")
    with pytest.raises(InputError) as caught:
        read_checkpoint(written, model)
    assert ", ".join(gone[:3]) + " and 2 more missing" in str(caught.value)
    assert gone[0] + ".other" in str(caught.value)
    assert gone[4] not in str(caught.value)


def test_adapters_that_do_not_fit_are_refused(written: Path, worker, model):
    with pytest.raises(InputError, match=r"adapter_model\.safetensors does not fit the model"):
        load_adapter(written, worker.lora_model(rank=8))
    tensors = load_file(written / "adapter_model.safetensors")
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, written / "adapter_model.safetensors")
    with pytest.raises(InputError, match="missing or unknown"):
        load_adapter(written, model)


def test_broken_and_missing_files_are_told(written: Path, model):
    content = (written / "moments.safetensors").read_bytes()
    (written / "moments.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"moments\.safetensors is broken"):
        read_checkpoint(written, model)
    (written / "moments.safetensors").unlink()
    with pytest.raises(InputError, match=r"moments\.safetensors does not exist"):
        read_checkpoint(written, model)
    (written / "moments.safetensors").write_bytes(content)
    (written / "checkpoint.json").write_text("{}")
    with pytest.raises(InputError, match=r"checkpoint\.json is missing or broken"):
        read_checkpoint(written, model)
    (written / "checkpoint.json").write_text(json.dumps({**vars(STATE), "format": 2}))
    with pytest.raises(InputError, match="format 2; this version reads format 1"):
        read_checkpoint(written, model)


def test_weights_and_moments_that_are_not_finite_are_refused():
    good = torch.ones(2)
    check_finite({"a": good}, {"a": (good, good)}, 3)
    bad = torch.tensor([1.0, float("inf")])
    for weight, moments in ((bad, (good, good)), (good, (bad, good)), (good, (good, bad))):
        with pytest.raises(StudyError, match="by step 3: a or its moments"):
            check_finite({"a": weight}, {"a": moments}, 3)
