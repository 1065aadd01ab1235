"""The loss of each example against Hugging Face's own, over families, wrappers, padding and chunks."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM

import instsel.models.loss
from instsel.data.batching import collate
from instsel.models.loss import answer_losses, keep_head_input_contiguous

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
OWN = {
    "gpt2": {"vocab_size": 97, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "bos_token_id": 1},
    "gpt_neox": {key: value for key, value in SIZES.items() if key not in ("num_key_value_heads", "head_dim")},
    "gemma2": {**SIZES, "final_logit_softcapping": 2.0},
    "gemma3_text": {**SIZES, "final_logit_softcapping": 2.0, "sliding_window": 4},
    "llama": {**SIZES, "tie_word_embeddings": True},
    "mistral": {**SIZES, "sliding_window": 4},
    "mixtral": {**SIZES, "num_local_experts": 2},
    "granite": {**SIZES, "logits_scaling": 3.0},
    "cohere": {**SIZES, "logit_scale": 0.3},
}
KNOWN = sorted(instsel.models.loss._PLAIN_HEADS)
SCALED = ["cohere", "granite"]


def build(family, **changes):
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**OWN.get(family, SIZES), **changes})
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    return model.eval()


def with_lora(model):
    targets = ["c_attn"] if model.config.model_type == "gpt2" else ["q_proj", "o_proj"]
    options = {"r": 4, "lora_dropout": 0.0, "target_modules": targets, "init_lora_weights": False}
    return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **options)).eval()


def make_examples(lengths=(9, 4, 12, 2), seed=0):
    random = np.random.default_rng(seed)
    rows = []
    for length in lengths:
        tokens = random.integers(3, 97, size=length).tolist()
        labels = [-100, *(token if random.random() < 0.6 else -100 for token in tokens[1:-1]), tokens[-1]]
        rows.append({"input_ids": tokens, "labels": labels})
    return rows


def own_loss(model, example):
    return model(input_ids=torch.tensor([example["input_ids"]]), labels=torch.tensor([example["labels"]])).loss


@pytest.mark.parametrize("family", KNOWN + SCALED)
def test_each_example_has_hugging_faces_loss(family):
    model, rows = build(family), make_examples()
    losses = answer_losses(model, collate(rows))
    wanted = torch.stack([own_loss(model, row) for row in rows])
    assert losses.shape == (4,)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "gpt2", "granite"])
@pytest.mark.parametrize("chunk", [1, 97 * 3, 2**25])
def test_gradients_through_a_peft_wrapper_are_hugging_faces(family, chunk, monkeypatch):
    monkeypatch.setattr(instsel.models.loss, "_LOGITS_PER_CHUNK", chunk)
    model, rows = with_lora(build(family)), make_examples()
    trainable = [value for value in model.parameters() if value.requires_grad]
    scales = torch.tensor([0.5, -1.0, 2.0, 0.1])
    wanted = torch.autograd.grad(sum(s * own_loss(model, row) for s, row in zip(scales, rows, strict=True)), trainable)
    got = torch.autograd.grad((scales * answer_losses(model, collate(rows))).sum(), trainable)
    for ours, theirs in zip(got, wanted, strict=True):
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_that_is_trained_gets_its_gradient(tied):
    model, rows = build("llama", tie_word_embeddings=tied), make_examples()
    parameters = list(model.parameters())
    wanted = torch.autograd.grad(sum(own_loss(model, row) for row in rows), parameters)
    got = torch.autograd.grad(answer_losses(model, collate(rows)).sum(), parameters)
    for ours, theirs in zip(got, wanted, strict=True):
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


def test_no_more_logits_than_a_chunk_at_a_time_and_none_for_prompts(monkeypatch):
    monkeypatch.setattr(instsel.models.loss, "_LOGITS_PER_CHUNK", 97 * 4)
    model, rows = with_lora(build("llama")), make_examples()
    seen = []
    model.get_output_embeddings().register_forward_hook(lambda module, args, output: seen.append(len(output)))
    answer_losses(model, collate(rows)).sum().backward()
    answers = sum(label != -100 for row in rows for label in row["labels"])
    assert sum(seen) == answers
    assert max(seen) == 4


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "granite"])
def test_padding_does_not_matter(family):
    model, rows = build(family), make_examples()
    together = answer_losses(model, collate(rows, pad_id=0))
    torch.testing.assert_close(answer_losses(model, collate(rows, pad_id=42)), together)
    apart = torch.cat([answer_losses(model, collate([row])) for row in rows])
    torch.testing.assert_close(apart, together, rtol=1e-5, atol=1e-5)


def test_bfloat16_logits_are_summed_in_float32():
    model, rows = build("llama").to(torch.bfloat16), make_examples()
    batch = collate(rows)
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.float()
    wanted = [cross_entropy(logits[row, :-1], batch["labels"][row, 1:], ignore_index=-100) for row in range(len(rows))]
    losses = answer_losses(model, batch)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, torch.stack(wanted), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("labels", [[-100, -100, -100], [5, -100, -100]])
def test_an_example_without_an_answer_is_named(labels):
    rows = [*make_examples(), {"input_ids": [5, 6, 7], "labels": labels}]
    with pytest.raises(ValueError, match=r"rows \[4\] have no answer token"):
        answer_losses(build("llama"), collate(rows))


def test_bug_a_strided_input_copied_the_heads_weights_for_every_row():
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **OWN["llama"]))
    keep_head_input_contiguous(model)
    strides = []
    model.lm_head.register_forward_hook(lambda _, inputs, __: strides.append(inputs[0].is_contiguous()))
    ids = torch.arange(12).reshape(3, 4)
    with torch.no_grad():
        last = model(ids, logits_to_keep=1).logits
        assert torch.allclose(last[:, 0], model(ids).logits[:, -1], atol=1e-6)
    # Without the copy the first of them, the last position of each row, is a strided view.
    assert strides == [True, True]
