"""The float32 residual stream of low-precision models."""

import torch

from instsel.gradients.engine import float32_stream


def types(model):
    """Types that a layer takes and gives, and of the matrix products in it."""
    found = []
    layer = model.get_decoder().layers[0]
    layer.register_forward_hook(lambda module, args, output: found.extend([args[0].dtype, output.dtype]))
    layer.mlp.up_proj.register_forward_hook(lambda module, args, output: found.append(output.dtype))
    model(input_ids=torch.tensor([[3, 4, 5]]))
    return found


def test_the_stream_is_float32_and_products_are_not(plain_model):
    model = plain_model("llama", torch.bfloat16)
    with float32_stream(model):
        assert types(model) == [torch.bfloat16, torch.float32, torch.float32]
    assert types(plain_model("llama", torch.bfloat16)) == [torch.bfloat16] * 3


def test_float32_models_and_those_with_torchs_layer_norm_are_left_alone(plain_model):
    for model in (plain_model("llama"), plain_model("gpt2", torch.bfloat16)):
        with float32_stream(model):
            assert not torch.is_autocast_enabled("cpu")
            assert not model.get_input_embeddings()._forward_hooks


def test_it_rounds_less(plain_model):
    exact = plain_model("llama").get_decoder()(input_ids=torch.arange(3, 40)[None])[0]
    model = plain_model("llama", torch.bfloat16)
    rough = model.get_decoder()(input_ids=torch.arange(3, 40)[None])[0].float()
    with float32_stream(model):
        finer = model.get_decoder()(input_ids=torch.arange(3, 40)[None])[0]
    assert (finer - exact).norm() < (rough - exact).norm()
