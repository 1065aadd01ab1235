"""`instsel.select` is each method's array function, by its name in a study file."""

import numpy as np
import pytest

import instsel
from instsel.selection import (
    Selection,
    bids,
    bm25,
    g2is,
    ifd,
    less,
    longest,
    perplexity,
    random,
    rds,
    round_robin,
    rules,
    smart,
    stratified,
    submodular,
)
from instsel.selection.registry import REGISTRY

RNG = np.random.default_rng(0)
INFLUENCE = RNG.normal(size=(30, 6)).astype(np.float32)
EMBEDDINGS = RNG.normal(size=(30, 8)).astype(np.float32)
VALIDATION = RNG.normal(size=(4, 8)).astype(np.float32)
LOSS, ALONE = RNG.random(30), RNG.random(30) + 0.5
TOKENS = RNG.integers(1, 90, 30)
PROMPTS = [f"a prompt about thing{row % 7} and kind{row % 4}" for row in range(30)]
TASKS = [f"t{row % 3}" for row in range(30)]
COLUMNS = list("aabbcc")

CASES = {
    "random": (30, {"seed": 3}, lambda k: random.select(30, k, seed=3)),
    "proportional": (TASKS, {"seed": 1}, lambda k: stratified.select(TASKS, k, shares="proportional", seed=1)),
    "equal": (TASKS, {"seed": 1}, lambda k: stratified.select(TASKS, k, shares="equal", seed=1)),
    "longest": (TOKENS, {}, lambda k: longest.select(TOKENS, k)),
    "perplexity": (LOSS, {}, lambda k: perplexity.select(LOSS, k)),
    "ifd": (LOSS, {"loss_alone": ALONE}, lambda k: ifd.select(LOSS, ALONE, k)),
    "rds": (EMBEDDINGS, {"validation": VALIDATION}, lambda k: rds.select(EMBEDDINGS, VALIDATION, k)),
    "less": (INFLUENCE, {"subtasks": COLUMNS}, lambda k: less.select(INFLUENCE, k, subtasks=COLUMNS)),
    "bids": (INFLUENCE, {"normalize": False}, lambda k: bids.select(INFLUENCE, k, normalize=False)),
    "bm25": (
        PROMPTS,
        {"validation": ["thing3", "kind2"], "k1": 1.2},
        lambda k: bm25.select(PROMPTS, k, validation=["thing3", "kind2"], k1=1.2),
    ),
    "round_robin": (INFLUENCE, {"targets": COLUMNS}, lambda k: round_robin.select(INFLUENCE, k, targets=COLUMNS)),
    "instance_max": (INFLUENCE, {}, lambda k: rules.select(INFLUENCE, k, rule="instance_max")),
    "task_max": (INFLUENCE, {"tasks": COLUMNS}, lambda k: rules.select(INFLUENCE, k, rule="task_max", tasks=COLUMNS)),
    "sum": (INFLUENCE, {"normalize": True}, lambda k: rules.select(INFLUENCE, k, rule="sum", normalize=True)),
    "g2is": (
        EMBEDDINGS,
        {"validation": VALIDATION, "fill": "similarity"},
        lambda k: g2is.select(EMBEDDINGS, VALIDATION, k, fill="similarity"),
    ),
    "smart": (EMBEDDINGS, {"tasks": TASKS, "lam": 0.2}, lambda k: smart.select(EMBEDDINGS, TASKS, k, lam=0.2)),
    "facility_location": (EMBEDDINGS, {}, lambda k: submodular.facility_location(EMBEDDINGS, k)),
    "graph_cut": (EMBEDDINGS, {"lam": 0.1}, lambda k: submodular.graph_cut(EMBEDDINGS, k, lam=0.1)),
    "log_det": (EMBEDDINGS, {}, lambda k: submodular.log_det(EMBEDDINGS, k)),
}


@pytest.mark.filterwarnings("ignore:g2is found")
@pytest.mark.parametrize("name", sorted(name for name, entry in REGISTRY.methods.items() if entry.array_function))
def test_it_is_the_array_function_of_every_method(name):
    data, options, function = CASES[name]
    expected, selection = function(7), instsel.select(name, data, 7, **options)
    assert isinstance(selection, Selection) and len(selection) == 7
    assert selection.indices.tolist() == expected.indices.tolist()
    assert selection.scores.tolist() == expected.scores.tolist()


@pytest.mark.parametrize(
    ("method", "data", "budget", "options", "message"),
    [
        ("g2s", INFLUENCE, 1, {}, "method must be one of bids, bm25, equal, .*task_max, got 'g2s'"),
        ("less", INFLUENCE, 1, {}, "less needs subtasks=, got no options"),
        ("rds", EMBEDDINGS, 1, {}, "rds needs validation="),
        ("bids", INFLUENCE, 1, {"lam": 0.4}, "bids has no option lam=0.4; its options are normalize"),
        ("random", 9, 1, {"seed": 0, "n": 3}, "random has no option n=3"),
        ("sum", INFLUENCE, 1, {"rule": "task_max"}, "sum has no option rule='task_max'"),
        ("equal", TASKS, 1, {"seed": 0, "shares": "x"}, "equal has no option shares='x'"),
        ("bids", INFLUENCE[0], 1, {}, r"attribution must have rank 2 \(rows, columns\), got shape \(6,\)"),
        ("less", INFLUENCE, 1, {"subtasks": ["a"]}, "subtasks must have one label for each of 6 columns, got 1"),
        ("bids", INFLUENCE, -1, {}, "budget must be at least 0, got -1"),
        ("bids", INFLUENCE, 0.1, {}, "budget must be a whole number, got 0.1"),
        ("random", INFLUENCE, 1, {"seed": 0}, "n must be a whole number"),
        ("g2is", EMBEDDINGS, 1, {"validation": VALIDATION, "delta": "x"}, "g2is: data or an option .*delta='x'"),
        ("longest", INFLUENCE, 1, {}, "tokens must be one real number a row"),
    ],
)
def test_what_does_not_fit_is_rejected_with_its_value(method, data, budget, options, message):
    with pytest.raises(ValueError, match=message):
        instsel.select(method, data, budget, **options)
