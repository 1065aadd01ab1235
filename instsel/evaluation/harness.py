"""Score a model on tasks of lm-evaluation-harness, an item a row.

The model is loaded once, and adapters are put on it between two calls. Prompts, requests, filters and metrics are
lm-eval's own, so scores equal those of its command line, item by item.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from instsel.data.batching import BatchFitter, collate
from instsel.errors import InputError
from instsel.evaluation.items import ITEMS, prompt_digest
from instsel.evaluation.tasks import TaskSpec
from instsel.models.loss import logits_at

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.models.huggingface import HFLM

Request = tuple[tuple[str, str], list[int], list[int]]
"""Texts of a context and a continuation, and the token ids of both, as lm-eval hands them out."""

NO_MATCH = "[invalid]"
"""What lm-eval's regular expressions give where nothing matches."""


class Harness:
    """A model that answers tasks.

    Args:
        model: causal language model of transformers, with or without an adapter.
        tokenizer: with a chat template.
        token_budget: padded tokens of one forward pass; halved where memory runs out.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, token_budget: int) -> None:
        self.fitter = BatchFitter.forward(token_budget, shorten="the task's prompts")
        with _quiet():
            self.lm = _language_model(model, tokenizer, self.fitter)

    def score(self, task: "ConfigurableTask", spec: TaskSpec, documents: Sequence[int]) -> pa.Table:
        """Answer documents of a task, by number in its test split, and score each.

        Returns:
            Table of schema `ITEMS`, in the order of `documents`.

        Raises:
            InputError: the task has no such metric or filter, or its metric is not a number.
            MemoryError: a single item does not fit in memory.
        """
        samples = self._samples(task, documents)
        filters = list(dict.fromkeys(sample["filter"] for sample in samples))
        chosen = _named(spec, "filter", spec.filter, filters)
        rows = [_item(task, spec, sample) for sample in samples if sample["filter"] == chosen]
        by_document = {row["document"]: row for row in rows}
        return pa.Table.from_pylist([by_document[document] for document in documents], schema=ITEMS)

    def logits(self, prompt: str) -> torch.Tensor:
        """Return the logits after a prompt, float32 (vocabulary,), on the CPU."""
        ids = torch.tensor([self.lm.tok_encode(prompt)], device=self.lm.device)
        with torch.no_grad():
            logits: torch.Tensor = self.lm.model(ids).logits[0, -1].float().cpu()
        return logits

    def _samples(self, task: "ConfigurableTask", documents: Sequence[int]) -> list[dict[str, Any]]:
        from lm_eval.evaluator import evaluate

        while True:
            self.lm.batch_size_per_gpu = self._batch_size(task, documents)
            try:
                with _quiet():
                    results = evaluate(
                        self.lm,
                        {"tasks": {task.task_name: task}},
                        samples={task.task_name: list(documents)},
                        bootstrap_iters=0,
                        log_samples=True,
                        apply_chat_template=True,
                        fewshot_as_multiturn=True,
                    )
            except torch.OutOfMemoryError as error:
                if self.lm.batch_size_per_gpu == 1:
                    raise MemoryError(f"an item of {task.task_name} does not fit in memory") from error
                self.fitter.token_budget = max(1, self.fitter.token_budget // 2)
                torch.cuda.empty_cache()
                continue
            samples: list[dict[str, Any]] = results["samples"][task.task_name]
            return samples

    def _batch_size(self, task: "ConfigurableTask", documents: Sequence[int]) -> int:
        """Return how many prompts of the longest one's length fit into the budget, with what is generated."""
        generated = int((task.config.generation_kwargs or {}).get("max_gen_toks", 0))
        texts = [str(task.doc_to_text(task.eval_docs[document])) for document in documents]
        shots = 1 + (task.config.num_fewshot or 0)
        longest = max(len(self.lm.tok_encode(text)) for text in texts) * shots + generated
        return max(1, self.fitter.token_budget // longest)


def _item(task: "ConfigurableTask", spec: TaskSpec, sample: Mapping[str, Any]) -> dict[str, Any]:
    metric = _named(spec, "metric", spec.metric, sample["metrics"])
    value = sample[metric]
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not np.isfinite(value):
        raise InputError(
            f"{spec.key}: metric {metric} of task {spec.source} is {value!r} for an item, not a number; name another "
            f"of its metrics: {', '.join(sample['metrics'])}"
        )
    is_choice = task.OUTPUT_TYPE == "multiple_choice"
    answer, probability = _choice(task, sample, metric) if is_choice else (str(sample["filtered_resps"][0]), None)
    return {
        "item": prompt_digest(str(sample["arguments"][0][0])),
        "document": sample["doc_id"],
        "answer": answer,
        "right": _right(task, sample),
        "correct": float(value),
        "probability": probability,
        "found": is_choice or answer != NO_MATCH,
    }


def _choice(task: "ConfigurableTask", sample: Mapping[str, Any], metric: str) -> tuple[str, float | None]:
    """Return the option that was taken, and the probability of the right one among all."""
    choices = [str(choice) for choice in task.doc_to_choice(sample["doc"])]
    scores = np.array([float(response[0]) for response in sample["filtered_resps"][: len(choices)]])
    if metric == "acc_norm":
        scores /= np.array([max(1, len(choice)) for choice in choices])
    elif metric == "acc_mutual_info":
        scores -= np.array([float(response[0]) for response in sample["filtered_resps"][len(choices) :]])
    weights = np.exp(scores - scores.max())
    right = sample["target"] if not isinstance(sample["target"], str) else _index(choices, sample["target"])
    rights = [right] if isinstance(right, int) else right
    probability = None
    if rights and all(isinstance(index, int) and 0 <= index < len(choices) for index in rights):
        probability = float(weights[list(rights)].sum() / weights.sum())
    return choices[int(np.argmax(scores))], probability


def _index(choices: Sequence[str], target: str) -> int | None:
    return choices.index(target) if target in choices else None


def _right(task: "ConfigurableTask", sample: Mapping[str, Any]) -> str:
    target = sample["target"]
    if task.OUTPUT_TYPE == "multiple_choice" and isinstance(target, int):
        choices = task.doc_to_choice(sample["doc"])
        return str(choices[target]) if 0 <= target < len(choices) else str(target)
    return str(target[0]) if isinstance(target, list) and len(target) == 1 else str(target)


def _named(spec: TaskSpec, what: str, wanted: str | None, known: Sequence[str]) -> str:
    if wanted is None:
        return known[0]
    if wanted not in known:
        raise InputError(f"{spec.key}: task {spec.source} has no {what} {wanted!r}; its {what}s are {', '.join(known)}")
    return wanted


def _language_model(model: nn.Module, tokenizer: Any, fitter: BatchFitter) -> "HFLM":
    from lm_eval.models.huggingface import HFLM

    class Model(HFLM):  # type: ignore[misc]  # lm-eval has no types
        """lm-eval's wrapper, whose log-likelihoods take logits of continuations only and batches by tokens."""

        def _loglikelihood_tokens(
            self, requests: Sequence[Request], disable_tqdm: bool = False, override_bs: int | None = None
        ) -> list[tuple[float, bool]]:
            return log_likelihoods(self.model, requests, max_length=self.max_length, fitter=fitter)

    # Any: its annotation names a class of transformers that PEFT's models are not.
    wrapped: Any = model
    return Model(pretrained=wrapped, tokenizer=tokenizer, backend="causal", batch_size=1)


def log_likelihoods(
    model: nn.Module, requests: Sequence[Request], *, max_length: int, fitter: BatchFitter
) -> list[tuple[float, bool]]:
    """Compute the log-probability of each continuation, and whether it is the most probable one token by token.

    Continuations of one token after the same context share a forward pass.

    Args:
        model: causal language model, with or without an adapter.
        requests: (texts, token ids of a context, token ids of a continuation).
        max_length: of the model, in tokens; longer contexts lose their start.
        fitter: forms the batches.
    """
    # What a continuation is predicted from: all but its last token.
    texts = [((*context, *continuation)[-(max_length + 1) :])[:-1] for _, context, continuation in requests]
    groups: dict[tuple[int, ...], list[int]] = {}
    for request, text in enumerate(texts):
        groups.setdefault(text, []).append(request)
    unique, results = list(groups), [(0.0, False)] * len(requests)
    device = next(model.parameters()).device

    def score(rows: list[int], _: bool) -> None:
        batch = collate([{"input_ids": unique[row], "labels": unique[row]} for row in rows], device=device)
        width = batch["input_ids"].shape[1]
        # Of several continuations the longest says which positions are needed, as all end at the same one.
        longest = [max(len(requests[request][2]) for request in groups[unique[row]]) for row in rows]
        needed = [
            index * width + column
            for index, (row, count) in enumerate(zip(rows, longest, strict=True))
            for column in range(len(unique[row]) - count, len(unique[row]))
        ]
        log_probabilities = logits_at(model, batch, torch.tensor(needed, device=device)).log_softmax(dim=-1)
        end = 0
        for row, count in zip(rows, longest, strict=True):
            end += count
            for request in groups[unique[row]]:
                ids = torch.tensor(requests[request][2], device=log_probabilities.device)
                predicted = log_probabilities[end - len(ids) : end]
                chosen = predicted.gather(1, ids[:, None]).sum()
                results[request] = (float(chosen), bool((predicted.argmax(dim=-1) == ids).all()))

    with torch.no_grad():
        fitter.run([len(text) for text in unique], score)
    return results


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep lm-eval's log and its progress bars off the terminal."""
    from functools import partialmethod

    from tqdm import tqdm

    logger, init = logging.getLogger("lm_eval"), tqdm.__init__
    level = logger.level
    logger.setLevel(logging.ERROR)
    tqdm.__init__ = partialmethod(init, disable=True)
    try:
        yield
    finally:
        tqdm.__init__ = init
        logger.setLevel(level)
