"""The keys of a training in a study file, for `warmup`, `finetune` and `mixture.training`."""

from typing import Literal

from pydantic import Field

from instsel.strict import StrictModel


class Training(StrictModel):
    epochs: int = Field(2, ge=1, description="passes over the training rows")
    learning_rate: float = Field(2e-4, gt=0, description="peak learning rate of AdamW")
    batch_size: int = Field(8, ge=1, description="rows per optimizer step, over all workers")
    micro_batch_size: int = Field(8, ge=1, description="rows one worker holds at once; the rest is accumulated")
    schedule: Literal["linear", "cosine", "constant"] = Field("linear", description="how the learning rate decays")
    warmup_ratio: float = Field(0.03, ge=0, le=1, description="fraction of the steps in which the learning rate rises")
    weight_decay: float = Field(0.0, ge=0, description="AdamW weight decay")
    max_grad_norm: float = Field(1.0, gt=0, description="gradient norm above which gradients are scaled down")
    seed: int = Field(0, ge=0, description="seed of the LoRA matrices, the row order and dropout")
