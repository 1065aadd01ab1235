"""Processes that are timed: what they tell of a little work."""

import pytest
import torch

from instsel.config.file import parse_study
from instsel.evaluation import scoring as heldout
from instsel.models import hidden_states
from instsel.models.embeddings import Encoder
from instsel.planner import processes as plan_processes
from instsel.planner.processes import EncoderProcess, ModelProcess, steps_of
from instsel.runtime.training_group import train_settings

ROWS = [[{"input_ids": [3, 4, 5, 6], "labels": [-100, 4, 5, 6]}] * 2]

MESSAGES = [{"role": "user", "content": "a train"}, {"role": "assistant", "content": "to Oslo"}]
PROMPTS = [[{"messages": MESSAGES, "tokens": tokens, "answer_tokens": 3} for tokens in (9, 40)]]


@pytest.mark.parametrize("stage", ["features", "evaluate", "likelihood", "hidden_states"])
def test_a_process_tells_the_padded_tokens_that_it_timed(tiny_study, stage):
    process = ModelProcess(1, parse_study(tiny_study(), "test"))
    timed = getattr(process, stage)(ROWS, [*ROWS, *ROWS])
    assert (timed.exhausted, timed.batches, timed.tokens, timed.token_budget) == (False, 2, 16, 0)
    assert min(timed.first, timed.seconds, timed.memory, timed.machine) > 0


def test_an_encoder_tells_prompts_by_the_tokens_of_the_study(tiny_study, tiny_encoder):
    raw = tiny_study(embedding={"encoder": str(tiny_encoder), "max_length": 16})
    timed = EncoderProcess(1, parse_study(raw, "test")).embed(PROMPTS, [*PROMPTS, *PROMPTS])
    assert (timed.batches, timed.tokens, timed.width) == (2, 2 * 2 * 16, 32)


def test_a_process_that_runs_out_of_memory_says_so(tiny_study, monkeypatch):
    process = ModelProcess(1, parse_study(tiny_study(), "test"))

    def run_out(*arguments):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(plan_processes, "heldout_losses", lambda *arguments, **named: run_out())
    assert process.evaluate(ROWS, ROWS).exhausted
    monkeypatch.setattr(plan_processes, "heldout_losses", lambda *arguments, **named: [].pop())
    with pytest.raises(IndexError):
        process.evaluate(ROWS, ROWS)


def test_features_that_only_fit_in_smaller_batches_say_which(tiny_study, monkeypatch):
    class Lowered:
        token_budget = 128

        def __init__(self, model, **settings):
            self.features = len

    monkeypatch.setattr(plan_processes, "GradientEngine", Lowered)
    timed = ModelProcess(1, parse_study(tiny_study(), "test")).features(ROWS, ROWS)
    assert (timed.exhausted, timed.token_budget) == (False, 128)


@pytest.mark.parametrize("stage", ["evaluate", "likelihood", "hidden_states"])
def test_forward_passes_that_only_fit_in_smaller_batches_say_which(tiny_study, monkeypatch, stage):
    def narrow(whole):
        def call(rows, *, device):
            if len(rows) > 1:
                raise torch.OutOfMemoryError("no memory")
            return whole(rows, device=device)

        return call

    for module in (heldout, hidden_states):
        monkeypatch.setattr(module, "collate", narrow(module.collate))
    timed = getattr(ModelProcess(1, parse_study(tiny_study(), "test")), stage)(ROWS, ROWS)
    assert (timed.exhausted, timed.token_budget) == (False, 4)


def test_prompts_that_only_fit_in_smaller_batches_say_which(tiny_study, tiny_encoder, monkeypatch):
    whole = Encoder._batch

    def narrow(encoder, rows):
        if len(rows) > 1:
            raise torch.OutOfMemoryError("no memory")
        return whole(encoder, rows)

    monkeypatch.setattr(Encoder, "_batch", narrow)
    raw = tiny_study(embedding={"encoder": str(tiny_encoder), "max_length": 16})
    timed = EncoderProcess(1, parse_study(raw, "test")).embed(PROMPTS, PROMPTS)
    assert not timed.exhausted and 0 < timed.token_budget <= 16


def test_workers_that_are_timed_have_the_share_of_a_step_that_they_will_have(tiny_study):
    raw = tiny_study(finetune={"batch_size": 64, "micro_batch_size": 2})
    study = parse_study(raw, "test")
    settings = train_settings(study, study.finetune, 16)
    assert steps_of(settings, 16, 16) is settings
    assert steps_of(settings, 4, 16).batch_size == 16
    assert steps_of(settings, 1, 200).batch_size == 1
