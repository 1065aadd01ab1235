"""Loading models and adapters: what is frozen, what is refused."""

import json
import os
import shutil

import pytest
import torch

from instsel.config.study import Embedding, Lora, Model
from instsel.errors import InputError
from instsel.models.loading import (
    attach_adapter,
    attach_lora,
    load_base,
    load_encoder,
    load_on_devices,
    load_tokenizer,
)


@pytest.fixture
def model(tiny_model):
    return Model(name=str(tiny_model), dtype="float32")


def test_the_base_is_frozen_and_lora_is_float32_even_on_a_bfloat16_base(tiny_model):
    base = load_base(Model(name=str(tiny_model), dtype="bfloat16"))
    assert not any(parameter.requires_grad for parameter in base.parameters())
    adapted = attach_lora(base, Lora(rank=2), seed=0)
    trainable = {name: p.dtype for name, p in adapted.named_parameters() if p.requires_grad}
    assert trainable
    assert all("lora_" in name and dtype == torch.float32 for name, dtype in trainable.items())


def test_the_same_seed_gives_the_same_matrices_and_leaves_torchs_own_alone(model):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second, third = (attach_lora(load_base(model), Lora(rank=2), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    weights = [next(p for n, p in m.named_parameters() if "lora_A" in n) for m in (first, second, third)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_an_adapter_comes_back_trainable(model, tmp_path):
    adapted = attach_lora(load_base(model), Lora(rank=2), seed=1)
    adapted.save_pretrained(tmp_path, save_embedding_layers=False)
    again = attach_adapter(load_base(model), tmp_path)
    for (name, ours), (_, theirs) in zip(adapted.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(ours, theirs), name
        assert ours.requires_grad == theirs.requires_grad


def test_modules_that_the_model_lacks_are_refused(model):
    with pytest.raises(InputError, match="lora.target_modules: .*; name modules that the model has"):
        attach_lora(load_base(model), Lora(target_modules=["c_attn"]), seed=0)


def test_a_missing_model_is_refused(tmp_path):
    nowhere = Model(name=str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="model.name: no tokenizer could be loaded from"):
        load_tokenizer(nowhere)
    with pytest.raises(InputError, match="model.name: .* could not be loaded"):
        load_base(nowhere)


def test_a_missing_chat_template_file_is_refused(tiny_model):
    with pytest.raises(InputError, match="model.chat_template: file nowhere.jinja does not exist"):
        load_tokenizer(Model(name=str(tiny_model), chat_template="nowhere.jinja"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{% for m in messages %}", "it has an error in line 1: Unexpected end of template"),
        ('{"eos_token": "</s>"}', "is JSON without a chat template"),
        (
            '[{"name": "a", "template": "m"}, {"name": "b", "template": "m"}]',
            r"has several templates \(a, b\) and none",
        ),
    ],
)
def test_a_chat_template_that_cannot_be_used_is_refused(tiny_model, tmp_path, text, reason):
    (tmp_path / "own.jinja").write_text(text)
    with pytest.raises(InputError, match=rf"^model\.chat_template: .*own\.jinja:? {reason}"):
        load_tokenizer(Model(name=str(tiny_model), chat_template=str(tmp_path / "own.jinja")))


def test_the_chat_template_of_another_models_configuration_is_used(tiny_model, tmp_path):
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template, "eos_token": "</s>"}))
    tokenizer = load_tokenizer(Model(name=str(tiny_model), chat_template=str(tmp_path / "tokenizer_config.json")))
    assert tokenizer.chat_template == template


def test_the_studys_own_chat_template_is_used(tiny_model, tmp_path):
    (tmp_path / "own.jinja").write_text("own {{ messages[0]['content'] }}")
    tokenizer = load_tokenizer(Model(name=str(tiny_model), chat_template=str(tmp_path / "own.jinja")))
    assert tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False) == "own x"


def test_without_a_gpu_a_model_is_on_the_cpu(model):
    assert {parameter.device.type for parameter in load_on_devices(model).parameters()} == {"cpu"}


@pytest.mark.parametrize(("gpus", "device_map"), [(1, {"": 0}), (2, "balanced")])
def test_a_model_is_spread_over_the_gpus_of_its_process(gpus, device_map, model, monkeypatch):
    from transformers import AutoModelForCausalLM

    asked = {}
    load = AutoModelForCausalLM.from_pretrained

    def from_pretrained(*args, device_map, **kwargs):
        asked["device_map"] = device_map
        return load(*args, **kwargs)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", from_pretrained)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    load_on_devices(model)
    assert asked["device_map"] == device_map


def test_a_model_that_the_gpus_cannot_hold_is_refused(model, monkeypatch):
    from transformers import AutoModelForCausalLM

    load = AutoModelForCausalLM.from_pretrained

    def from_pretrained(*args, device_map, **kwargs):
        base = load(*args, **kwargs)
        base.hf_device_map = {"model.layers.0": 0, "model.layers.1": "cpu"}
        return base

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", from_pretrained)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match="resources.gpus_per_actor: .* does not fit into the 2 GPUs of an actor"):
        load_on_devices(model)


def test_the_attention_that_a_study_asks_for_is_used(tiny_model):
    assert load_base(Model(name=str(tiny_model), attention="eager")).config._attn_implementation == "eager"


def test_an_attention_that_is_not_installed_is_refused(tiny_model):
    with pytest.raises(InputError, match="model.attention: flash_attention_2 cannot be used"):
        load_base(Model(name=str(tiny_model), attention="flash_attention_2"))


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_weights_that_are_a_pickle_are_not_read(tiny_model, tiny_encoder, tmp_path):
    for folder, load in ((tiny_model, load_base_of), (tiny_encoder, load_encoder_of)):
        copy = tmp_path / folder.name
        shutil.copytree(folder, copy)
        (copy / "model.safetensors").unlink()
        torch.save(Evil(tmp_path / "ran"), copy / "pytorch_model.bin")
        with pytest.raises(InputError, match="could not be loaded"):
            load(copy)
    assert not (tmp_path / "ran").exists()


def test_code_that_comes_with_a_model_is_not_run(tiny_model, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(tiny_model, copy)
    (copy / "evil.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\n")
    classes = {"AutoConfig": "evil.X", "AutoModel": "evil.X", "AutoModelForCausalLM": "evil.X"}
    change(copy / "config.json", auto_map=classes, model_type="evil")
    change(copy / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.X", "evil.X"]}, tokenizer_class="X")
    for load in (load_base_of, load_encoder_of, lambda folder: load_tokenizer(Model(name=str(folder)))):
        with pytest.raises(InputError, match="contains custom code which must be executed"):
            load(copy)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("what", ["a pickle", "a module", "another base", "no LoRA", "broken"])
def test_an_adapter_folder_runs_nothing_and_names_no_other_model(what, model, tmp_path, monkeypatch):
    adapted = attach_lora(load_base(model), Lora(rank=2), seed=1)
    adapted.save_pretrained(tmp_path, save_embedding_layers=False)
    config = tmp_path / "adapter_config.json"
    if what == "a pickle":
        (tmp_path / "adapter_model.safetensors").unlink()
        torch.save(Evil(tmp_path / "ran"), tmp_path / "adapter_model.bin")
    if what == "a module":
        (tmp_path / "megatron_evil.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\n")
        monkeypatch.syspath_prepend(tmp_path)
        mapping = {"parent_library": "megatron_evil", "base_model_class": "X"}
        change(config, megatron_config={"a": 1}, megatron_core="megatron_evil", auto_mapping=mapping)
    if what == "another base":
        change(config, base_model_name_or_path="evil/model", revision="evil")
    if what == "no LoRA":
        config.write_text('{"peft_type": "IA3", "target_modules": ["q_proj"]}')
    if what == "broken":
        config.write_text('{"r": ' + "[" * 100_000)
    if what in ("a module", "another base"):
        again = attach_adapter(load_base(model), tmp_path)
        for (name, ours), (_, theirs) in zip(adapted.named_parameters(), again.named_parameters(), strict=True):
            assert torch.equal(ours, theirs), name
    else:
        with pytest.raises(InputError, match="adapter_(config|model)"):
            attach_adapter(load_base(model), tmp_path)
    assert not (tmp_path / "ran").exists()


def load_base_of(folder):
    return load_base(Model(name=str(folder), dtype="float32"))


def load_encoder_of(folder):
    return load_encoder(Embedding(encoder=str(folder)))


def change(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
