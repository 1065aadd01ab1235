"""The engine against autograd, one example at a time, on small models of several families."""

import numpy as np
import pytest
import torch

from instsel.data.batching import BatchFitter
from instsel.evaluation.scoring import heldout_losses
from instsel.gradients.adam import update_direction
from instsel.gradients.engine import GradientEngine
from instsel.gradients.sketch import CountSketch

FAMILIES = ["llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text", "gpt2", "granite"]
SKETCH = CountSketch(128, 0)


def error(got, wanted):
    return ((got - wanted).norm() / wanted.norm()).item()


def random_moments(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (
            torch.randn(value.shape, generator=generator) * 0.1,
            torch.rand(value.shape, generator=generator) * 0.01,
        )
        for name, value in model.named_parameters()
        if value.requires_grad
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_autograd(family, lora_model, make_examples, oracle):
    model, rows = lora_model(family), make_examples(7)
    got = GradientEngine(model, sketch=SKETCH, token_budget=48).gradients(rows)
    wanted = oracle(model, rows)
    assert got.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert got[name].shape == gradient.shape
        assert got[name].dtype == torch.float32
        assert gradient.norm() > 0 and error(got[name], gradient) < 1e-5, name


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_adam_features_equal_the_formula(family, lora_model, make_examples, oracle):
    model, rows = lora_model(family), make_examples(6)
    moments = random_moments(model)
    engine = GradientEngine(model, sketch=SKETCH, moments=moments, token_budget=40, betas=(0.8, 0.99), eps=1e-6)
    directions = {
        name: update_direction(gradient, *moments[name], betas=(0.8, 0.99), eps=1e-6)
        for name, gradient in oracle(model, rows).items()
    }
    features = engine.features(rows)
    assert features.dtype == np.float32
    assert features.shape == (6, 128)
    assert error(torch.from_numpy(features), SKETCH.project(directions)) < 1e-5


def test_plain_features_are_sketched_gradients(lora_model, make_examples, oracle):
    model, rows = lora_model(), make_examples(5)
    features = GradientEngine(model, sketch=SKETCH).features(rows)
    assert error(torch.from_numpy(features), SKETCH.project(oracle(model, rows))) < 1e-5


@pytest.mark.parametrize("family", ["llama", "gemma2", "granite"])
def test_losses_come_with_the_gradients_that_are_theirs(family, lora_model, make_examples):
    model, rows = lora_model(family), make_examples(6)
    engine = GradientEngine(model, sketch=SKETCH, token_budget=40)
    features, losses = engine.features_and_losses(rows)
    np.testing.assert_array_equal(features, engine.features(rows))
    expected = heldout_losses(model, rows, fitter=BatchFitter.forward(1))
    assert losses.dtype == np.float64
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


def test_full_fine_tuning_of_gpt2s_conv1d_with_biases(plain_model, make_examples, oracle):
    model, rows = plain_model("gpt2"), make_examples(4)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("c_attn" in name or "c_fc" in name)
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    got = GradientEngine(model, sketch=SKETCH, token_budget=30).gradients(rows)
    wanted = oracle(model, rows)
    assert any(name.endswith("bias") for name in wanted)
    for name, gradient in wanted.items():
        # GPT-2's key bias shifts all scores of a query alike: its gradient is nought but rounding.
        torch.testing.assert_close(got[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3_text", "gpt2"])
def test_how_rows_fall_into_batches_does_not_matter(family, lora_model, make_examples):
    model, rows = lora_model(family), make_examples(9)
    moments = random_moments(model)
    one = GradientEngine(model, sketch=SKETCH, moments=moments, token_budget=10_000).features(rows)
    for budget in (1, 45):
        other = GradientEngine(model, sketch=SKETCH, moments=moments, token_budget=budget).features(rows)
        assert np.max(np.linalg.norm(other - one, axis=1) / np.linalg.norm(one, axis=1)) < 1e-5
    order = [3, 1, 8, 0, 2, 7, 5, 4, 6]
    shuffled = GradientEngine(model, sketch=SKETCH, moments=moments).features([rows[row] for row in order])
    np.testing.assert_allclose(shuffled, one[order], rtol=1e-4, atol=1e-4 * np.abs(one).max())


def test_twice_the_same_is_bitwise_the_same(lora_model, make_examples):
    model, rows = lora_model(), make_examples(6)
    engine = GradientEngine(model, sketch=SKETCH, moments=random_moments(model), token_budget=40)
    np.testing.assert_array_equal(engine.features(rows), engine.features(rows))


def test_the_model_is_left_as_it_was(lora_model, make_examples):
    model = lora_model()
    before = {name: (value.clone(), value.requires_grad) for name, value in model.named_parameters()}
    model.train()
    with torch.no_grad():
        GradientEngine(model, sketch=SKETCH).features(make_examples(2))
    assert model.training
    for name, value in model.named_parameters():
        assert torch.equal(value, before[name][0])
        assert value.requires_grad == before[name][1]
        assert value.grad is None


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_models_come_near_their_float32_features(family, lora_model, make_examples):
    rows = make_examples(6)
    exact = GradientEngine(lora_model(family), sketch=SKETCH).features(rows)
    model = lora_model(family, torch.bfloat16)
    rough = GradientEngine(model, sketch=SKETCH).features(rows)
    cosines = (exact * rough).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(rough, axis=1)
    assert rough.dtype == np.float32
    assert cosines.min() > 0.99
    assert not model.get_input_embeddings()._forward_hooks
    assert not torch.is_autocast_enabled("cpu")
    again = GradientEngine(model, sketch=SKETCH, recompute=True).features(rows)
    np.testing.assert_allclose(again, rough, rtol=1e-4, atol=1e-4 * np.abs(rough).max())


def test_a_zero_gradient_still_has_the_direction_of_the_momentum(lora_model, make_examples):
    """methods 5.4: g = 0 gives b1 m / sqrt(b2 v + eps)."""
    model, rows = lora_model("llama"), make_examples(1)
    with torch.no_grad():
        model.get_base_model().get_output_embeddings().weight.zero_()
    moments = random_moments(model)
    zeros = {name: torch.zeros(1, *first.shape) for name, (first, _) in moments.items()}
    wanted = SKETCH.project({name: update_direction(zeros[name], *moments[name]) for name in moments})
    assert not GradientEngine(model, sketch=SKETCH).features(rows).any()
    features = GradientEngine(model, sketch=SKETCH, moments=moments).features(rows)
    np.testing.assert_allclose(features, wanted.numpy(), rtol=1e-5, atol=1e-5)


def test_a_gradient_that_is_not_finite_stays_in_its_row(lora_model):
    model = lora_model("llama")
    with torch.no_grad():
        model.get_input_embeddings().weight[50] = torch.inf
    good, bad = [3, 4, 5, 6], [3, 50, 5, 6]
    rows = [{"input_ids": ids, "labels": [-100, *ids[1:]]} for ids in (good, bad, good)]
    model.get_base_model().get_output_embeddings().weight = torch.nn.Parameter(torch.randn(97, 32), requires_grad=False)
    features = GradientEngine(model, sketch=SKETCH).features(rows)
    assert np.isfinite(features[[0, 2]]).all()
    assert not np.isfinite(features[1]).all()


def test_no_examples_are_no_trouble(lora_model):
    engine = GradientEngine(lora_model(), sketch=SKETCH)
    assert engine.features([]).shape == (0, 128)
    assert all(len(gradient) == 0 for gradient in engine.gradients([]).values())


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ({"input_ids": [3, 4], "labels": [-100, -100]}, "example 1 has no answer token"),
        ({"input_ids": [3, 4], "labels": [3, -100]}, "example 1 has no answer token"),
        ({"input_ids": [], "labels": []}, "example 1 has no answer token"),
        ({"input_ids": [3, 4], "labels": [4]}, "example 1 has 2 tokens and 1 labels"),
        ({"input_ids": [3, 97], "labels": [-100, 4]}, "example 1: input_ids holds 97"),
        ({"input_ids": [3, -100], "labels": [-100, 4]}, "example 1: input_ids holds -100"),
        ({"input_ids": [3, 4], "labels": [-100, 1000]}, "example 1: labels holds 1000"),
    ],
)
def test_a_bad_example_is_named_by_its_index(example, message, lora_model, make_examples):
    engine = GradientEngine(lora_model(), sketch=SKETCH)
    with pytest.raises(ValueError, match=message):
        engine.features([*make_examples(1), example])
    with pytest.raises(ValueError, match=message):
        engine.gradients([*make_examples(1), example])


def test_moments_that_do_not_match_are_refused_by_name(lora_model):
    model = lora_model()
    moments = random_moments(model)
    name = next(iter(moments))
    lacking = {other: value for other, value in moments.items() if other != name}
    first, second = moments[name]
    for wrong, message in [
        (lacking, f"1 without moments .*{name}"),
        ({**moments, "stranger": moments[name]}, "1 moments without a parameter .*stranger"),
        ({**moments, name: (first.T, second.T)}, f"{name}: moments have shape"),
        ({**moments, name: (first, second[:1])}, f"{name}: exp_avg has shape"),
        ({**moments, name: (first * torch.nan, second)}, f"{name}: a moment holds NaN"),
        ({**moments, name: (first, second - 1)}, f"{name}: exp_avg_sq has the entry"),
        ({}, "without moments"),
    ]:
        with pytest.raises(ValueError, match=message):
            GradientEngine(model, sketch=SKETCH, moments=wrong)


@pytest.mark.parametrize("option", [{"token_budget": 0}, {"betas": (0.9, 2.0)}, {"eps": -1.0}])
def test_options_out_of_range_are_refused(option, lora_model):
    with pytest.raises(ValueError, match=next(iter(option))):
        GradientEngine(lora_model(), sketch=SKETCH, **option)


def test_trained_norms_and_embeddings_are_refused_by_name(lora_model):
    model = lora_model()
    model.get_base_model().model.norm.weight.requires_grad_(True)
    with pytest.raises(ValueError, match=r"model.norm.weight belongs to a LlamaRMSNorm"):
        GradientEngine(model, sketch=SKETCH)
    model = lora_model(modules_to_save=["embed_tokens"])
    with pytest.raises(ValueError, match="embed_tokens.*belongs to a Embedding"):
        GradientEngine(model, sketch=SKETCH)


def test_dora_is_refused_by_name(lora_model):
    with pytest.raises(ValueError, match="lora_magnitude_vector"):
        GradientEngine(lora_model(use_dora=True), sketch=SKETCH)


def test_a_plain_lora_layer_as_a_whole_equals_its_modules(lora_model, make_examples):
    rows = make_examples(6)
    for family, options in [("llama", {}), ("qwen2", {"use_rslora": True}), ("gpt2", {"fan_in_fan_out": True})]:
        model = lora_model(family, **options)
        whole = GradientEngine(model, sketch=SKETCH).gradients(rows)
        for module in model.modules():
            if hasattr(module, "lora_A"):
                module.forward = module.forward
        apart = GradientEngine(model, sketch=SKETCH).gradients(rows)
        for name, gradient in apart.items():
            assert error(whole[name], gradient) < 1e-5, name
        assert all("forward" in vars(module) for module in model.modules() if hasattr(module, "lora_A"))


@pytest.mark.parametrize(
    ("options", "frozen"), [({"lora_bias": True}, None), ({"target_modules": "all-linear"}, None), ({}, "lora_A")]
)
def test_other_ways_of_lora_are_those_of_autograd(options, frozen, lora_model, make_examples, oracle):
    model, rows = lora_model("llama", **options), make_examples(5)
    for name, parameter in model.named_parameters():
        if frozen and frozen in name:
            parameter.requires_grad_(False)
    got = GradientEngine(model, sketch=SKETCH, token_budget=48).gradients(rows)
    wanted = oracle(model, rows)
    assert got.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert error(got[name], gradient) < 1e-5, name


def test_trained_biases_below_lora_are_not_taken_for_unheard(lora_model, make_examples, oracle):
    model, rows = lora_model("gpt2", bias="lora_only"), make_examples(4)
    got = GradientEngine(model, sketch=SKETCH).gradients(rows)
    wanted = oracle(model, rows)
    biases = [name for name in wanted if name.endswith("c_proj.base_layer.bias")]
    assert biases
    assert got.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-4, atol=1e-6)
    assert all(got[name].any() for name in biases)


def test_a_matrix_that_a_plain_layer_shares_with_another_kind_is_summed_over_both(lora_model, make_examples, oracle):
    model, rows = lora_model("llama"), make_examples(4)
    first, second = (layer.self_attn.q_proj for layer in model.get_base_model().get_decoder().layers)
    second.lora_A["default"].weight = first.lora_A["default"].weight
    second.forward = second.forward
    got = GradientEngine(model, sketch=SKETCH).gradients(rows)
    wanted = oracle(model, rows)
    assert got.keys() == wanted.keys()
    assert all(error(got[name], gradient) < 1e-5 for name, gradient in wanted.items())


def test_a_float32_layer_in_a_bfloat16_model(lora_model, make_examples):
    rows = make_examples(4)
    wanted = GradientEngine(lora_model("llama"), sketch=SKETCH).features(rows)
    model = lora_model("llama", torch.bfloat16)
    model.get_base_model().get_decoder().layers[0].self_attn.q_proj.base_layer.float()
    got = GradientEngine(model, sketch=SKETCH).features(rows)
    cosines = (got * wanted).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(wanted, axis=1)
    assert cosines.min() > 0.99


def test_only_the_active_adapter_counts(lora_model, make_examples, oracle):
    from peft import LoraConfig

    model, rows = lora_model("llama"), make_examples(4)
    model.add_adapter("other", LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    got = GradientEngine(model, sketch=SKETCH).gradients(rows)
    wanted = oracle(model, rows)
    assert got.keys() == wanted.keys()
    assert not any(".other." in name for name in got)
    assert all(error(got[name], gradient) < 1e-5 for name, gradient in wanted.items())


def test_a_model_that_accelerate_spread_out(lora_model, plain_model, add_lora, make_examples):
    """Only one device is at hand here; the hooks that accelerate puts on modules are the same with more."""
    from accelerate import dispatch_model

    rows = make_examples(5)
    wanted = GradientEngine(lora_model("llama"), sketch=SKETCH).features(rows)
    base = plain_model("llama")
    parts = ["model.embed_tokens", "model.layers.0", "model.layers.1", "model.norm", "model.rotary_emb", "lm_head"]
    spread = dispatch_model(base, dict.fromkeys(parts, "cpu"), force_hooks=True)
    got = GradientEngine(add_lora(spread), sketch=SKETCH).features(rows)
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_recomputed_activations_give_the_same_gradients(family, lora_model, make_examples):
    model, rows = lora_model(family), make_examples(6)
    calls = []
    layers = model.get_base_model().get_decoder()
    layer = (layers.h if family == "gpt2" else layers.layers)[0]
    layer.mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    kept = GradientEngine(model, sketch=SKETCH, token_budget=10_000).gradients(rows)
    assert len(calls) == 1
    engine = GradientEngine(model, sketch=SKETCH, token_budget=10_000, recompute=True)
    again = engine.gradients(rows)
    assert len(calls) == 3, "the block ran once more on the way back"
    assert all(error(again[name], gradient) < 1e-6 for name, gradient in kept.items())
    assert "forward" not in vars(layer)


def test_recomputing_keeps_fewer_tensors_for_the_way_back(lora_model, make_examples):
    model, rows = lora_model("llama"), make_examples(6)

    def kept(**options):
        total = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: total.append(t.numel()) or t, lambda t: t):
            GradientEngine(model, sketch=SKETCH, token_budget=10_000, **options).features(rows)
        return sum(total)

    assert kept(recompute=True) < 0.5 * kept()


def out_of_memory_above(model, tokens, monkeypatch):
    """Let the model's decoder run out of memory for batches of more than so many tokens."""
    decoder = model.get_base_model().get_decoder()
    forward, tried = decoder.forward, []

    def limited(*args, input_ids, **kwargs):
        tried.append(input_ids.numel())
        if input_ids.numel() > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(*args, input_ids=input_ids, **kwargs)

    monkeypatch.setattr(decoder, "forward", limited)
    return tried


def test_a_batch_that_runs_out_of_memory_is_halved_and_the_budget_remembered(lora_model, make_examples, monkeypatch):
    model, rows = lora_model("llama"), make_examples(9)
    moments = random_moments(model)
    wanted = GradientEngine(model, sketch=SKETCH, moments=moments).features(rows)
    tried = out_of_memory_above(model, 45, monkeypatch)
    engine = GradientEngine(model, sketch=SKETCH, moments=moments, token_budget=4096)
    got = engine.features(rows)
    assert np.max(np.linalg.norm(got - wanted, axis=1) / np.linalg.norm(wanted, axis=1)) < 1e-5
    assert 20 <= engine.token_budget <= 45
    assert not engine.recompute
    refused = sum(tokens > 45 for tokens in tried)
    assert refused >= 1
    engine.features(rows)
    engine.gradients(rows)
    assert sum(tokens > 45 for tokens in tried) == refused, "nothing that large was tried again"


def test_activations_are_recomputed_where_a_single_row_does_not_fit(lora_model, make_examples, monkeypatch):
    model, rows = lora_model("llama"), make_examples(3)
    wanted = GradientEngine(model, sketch=SKETCH).features(rows)
    layer = model.get_base_model().get_decoder().layers[0]
    forward = type(layer).forward

    def hungry(self, *args, **kwargs):
        # Under recomputation the block's forward is replaced.
        if "forward" not in vars(self):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(layer), "forward", hungry)
    engine = GradientEngine(model, sketch=SKETCH)
    np.testing.assert_allclose(engine.features(rows), wanted, rtol=1e-4, atol=1e-6)
    assert engine.recompute


def test_a_row_that_never_fits_is_an_error_that_says_what_to_change(lora_model, make_examples, monkeypatch):
    model = lora_model("llama")
    out_of_memory_above(model, 0, monkeypatch)
    with pytest.raises(MemoryError, match=r"one row of \d+ tokens does not fit .*data.max_length"):
        GradientEngine(model, sketch=SKETCH).features(make_examples(2))


def test_other_errors_are_no_lack_of_memory(lora_model, make_examples, monkeypatch):
    model = lora_model("llama")
    monkeypatch.setattr(model.get_base_model().get_decoder(), "forward", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        GradientEngine(model, sketch=SKETCH).features(make_examples(2))


def test_a_merged_adapter_is_refused(lora_model, make_examples):
    model = lora_model()
    model.merge_adapter()
    with pytest.raises(ValueError, match="lora_A.*was not called"):
        GradientEngine(model, sketch=SKETCH).features(make_examples(1))
