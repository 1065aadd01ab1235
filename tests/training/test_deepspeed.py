import json
import logging
from pathlib import Path

import pytest

from instsel.errors import InputError
from instsel.training.deepspeed import complete, import_deepspeed, read_json

# What Hugging Face's documentation shows for ZeRO 3, with its "auto" values.
WITH_AUTO = {
    "fp16": {"enabled": "auto", "loss_scale": 0},
    "bf16": {"enabled": "auto"},
    "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"}},
    "scheduler": {"type": "WarmupLR", "params": {"warmup_min_lr": "auto", "warmup_max_lr": "auto"}},
    "zero_optimization": {
        "stage": 3,
        "overlap_comm": True,
        "reduce_bucket_size": "auto",
        "stage3_prefetch_bucket_size": "auto",
    },
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "wall_clock_breakdown": False,
}


def test_auto_values_are_filled_from_the_study_and_the_rest_is_kept(settings):
    config = complete(settings(batch_size=16, micro_batch_size=3, deepspeed=WITH_AUTO), world_size=2)
    assert '"auto"' not in json.dumps(config)
    assert config["train_micro_batch_size_per_gpu"] == 3
    assert config["gradient_accumulation_steps"] == 3
    assert config["gradient_clipping"] == 1.0
    assert config["zero_optimization"]["stage"] == 3
    assert config["zero_optimization"]["overlap_comm"] is True
    assert config["wall_clock_breakdown"] is False
    assert not {"optimizer", "scheduler", "fp16", "train_batch_size"} & config.keys()


def test_bfloat16_is_autocast_with_gradients_reduced_in_float32(settings):
    config = complete(settings(dtype="bfloat16"), 1)
    assert config["torch_autocast"] == {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
    assert config["bf16"] == {"enabled": False}
    assert complete(settings(), 1)["torch_autocast"]["enabled"] is False


def test_values_equal_to_the_studys_are_accepted(settings):
    fixed = {
        "train_batch_size": 4,
        "gradient_clipping": 1,
        "optimizer": {"type": "Adam", "params": {"lr": 0.01, "betas": [0.9, 0.999], "weight_decay": 0.1}},
    }
    assert complete(settings(deepspeed=fixed), 1)["gradient_accumulation_steps"] == 4


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"train_batch_size": 32}, "train_batch_size is 32, but the study file's batch_size makes it 4"),
        ({"train_micro_batch_size_per_gpu": 2}, "train_micro_batch_size_per_gpu is 2"),
        ({"gradient_accumulation_steps": 3}, "gradient_accumulation_steps is 3"),
        ({"gradient_clipping": 0.5}, "gradient_clipping is 0.5"),
        ({"optimizer": {"type": "Lamb"}}, "optimizer.type is 'Lamb'"),
        ({"optimizer": {"type": "AdamW", "params": {"lr": 1e-5}}}, "lr is 1e-05"),
        ({"optimizer": {"type": "AdamW", "params": {"betas": [0.8, 0.999]}}}, "betas is"),
        ({"optimizer": "AdamW"}, "optimizer is 'AdamW'; expected an object"),
        ({"scheduler": {"type": "WarmupLR", "params": {"warmup_num_steps": 7}}}, "warmup_num_steps is fixed"),
        ({"fp16": {"enabled": True}}, "fp16.enabled"),
        ({"bf16": {"enabled": True}}, "bf16.enabled is True, but model.dtype is float32"),
        ({"torch_autocast": {"enabled": True}}, "torch_autocast.enabled is True"),
        ({"zero_optimization": {"stage": 4}}, "stage is 4"),
        ({"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "nvme"}}}, "nvme"),
    ],
)
def test_contradictions_are_refused(settings, section, message):
    with pytest.raises(InputError, match=f"deepspeed.config: .*{message}"):
        complete(settings(deepspeed=section), 1)


def test_bfloat16_weights_of_deepspeed_need_a_zero_stage(settings):
    with pytest.raises(InputError, match="bf16.enabled is true without ZeRO"):
        complete(settings(stage=0, dtype="bfloat16", deepspeed={"bf16": {"enabled": True}}), 1)


def test_a_json_is_read_and_a_broken_one_told_with_its_line(tmp_path: Path):
    path = tmp_path / "ds.json"
    path.write_text(json.dumps(WITH_AUTO))
    assert read_json(str(path)) == WITH_AUTO
    path.write_text('{\n"zero_optimization": {,}\n}')
    with pytest.raises(InputError, match=r"ds\.json is not valid JSON: .*line 2"):
        read_json(str(path))
    path.write_text("[1]")
    with pytest.raises(InputError, match="holds a list"):
        read_json(str(path))
    with pytest.raises(InputError, match="cannot be read"):
        read_json(str(tmp_path / "none.json"))


def test_deepspeed_is_quiet_below_errors(capfd):
    deepspeed = import_deepspeed()
    logger = logging.getLogger("DeepSpeed")
    logger.warning("a notice")
    logger.error("an error")
    told = "".join(capfd.readouterr())
    assert "a notice" not in told
    assert deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] is False
