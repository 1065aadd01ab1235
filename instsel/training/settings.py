"""What decides the result of a training run, apart from its model and its rows."""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class TrainSettings:
    """Settings of one training run. How many workers share the work is none of them: it changes no result.

    Attributes:
        epochs: passes over the rows; each ends with a checkpoint.
        batch_size: rows an optimizer step sees, over all workers.
        micro_batch_size: most rows one worker holds at once; another changes the result by rounding, or dropout's draw.
        learning_rate: peak learning rate of AdamW.
        schedule: how the learning rate decays after its rise.
        warmup_ratio: share of the steps over which the learning rate rises.
        weight_decay: AdamW's decoupled weight decay.
        max_grad_norm: gradient norm above which gradients are scaled down to it.
        seed: seed of the row order and of dropout.
        dtype: type of the frozen weights and of activations; trained weights and moments are always float32.
        betas: AdamW's decay rates of the first and second moment.
        eps: AdamW's denominator constant.
        deepspeed: a DeepSpeed configuration as the user wrote it; "auto" and missing keys are filled in.
    """

    epochs: int
    batch_size: int
    micro_batch_size: int
    learning_rate: float
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup_ratio: float = 0.03
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    seed: int = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    deepspeed: dict[str, Any] = field(default_factory=lambda: {"zero_optimization": {"stage": 2}})
