"""Scores of generated answers: exact match, token F1 and ROUGE-L against the best of several right ones, and code.

The functions whose names end in `_results` are what a written task of lm-evaluation-harness calls for each item, so
that `lm_eval` run by hand on that task gives the same scores.
"""

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from instsel.evaluation.code import extract_code, passes, require_allowed

ANSWER = "answers"
"""Key of a written item's right answers, a list of texts."""

SETUP, TESTS = "setup", "tests"
"""Keys of a written item's Python sources: what a program starts with, and the list of what it has to pass."""

_PUNCTUATION = re.compile(f"[{re.escape(string.punctuation)}]")


def normalise(text: str) -> str:
    """Return a text in lower case, without punctuation, with single spaces."""
    return " ".join(_PUNCTUATION.sub(" ", text.lower()).split())


def exact_match(answer: str, right: Sequence[str]) -> float:
    """Return 1.0 if an answer equals one of the right ones after `normalise`, else 0.0."""
    return float(normalise(answer) in {normalise(each) for each in right})


def token_f1(answer: str, right: Sequence[str]) -> float:
    """Return the largest F1 of an answer's words with those of a right answer, between 0 and 1.

    Words are those of `normalise`, each as often as it occurs (SQuAD, arXiv 1606.05250, Section 6.1; articles count
    here, as not all languages have them). Two empty texts have F1 1.
    """
    return max(_f1(normalise(answer).split(), normalise(each).split()) for each in right)


def rouge_l(answer: str, right: Sequence[str]) -> float:
    """Return the largest F-measure of ROUGE-L with a right answer, between 0 and 1, by the library `rouge_score`."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    return max(float(scorer.score(each, answer)["rougeL"].fmeasure) for each in right)


def exact_match_results(item: Mapping[str, Any], responses: Sequence[str]) -> dict[str, float]:
    """Return `exact_match` of a written item."""
    return {"exact_match": exact_match(responses[0], item[ANSWER])}


def f1_results(item: Mapping[str, Any], responses: Sequence[str]) -> dict[str, float]:
    """Return `f1` and `exact_match` of a written item."""
    return {"f1": token_f1(responses[0], item[ANSWER]), **exact_match_results(item, responses)}


def rouge_l_results(item: Mapping[str, Any], responses: Sequence[str]) -> dict[str, float]:
    """Return `rouge_l` of a written item."""
    return {"rouge_l": rouge_l(responses[0], item[ANSWER])}


def code_results(item: Mapping[str, Any], responses: Sequence[str]) -> dict[str, float]:
    """Return `code` of a written item: 1.0 if the program in the response passes the item's tests, else 0.0.

    Raises:
        InputError: running code is not allowed, see `evaluation.code`.
    """
    require_allowed()
    program = f"{item[SETUP]}\n{extract_code(responses[0])}"
    return {"code": float(passes(program, item[TESTS]))}


def _f1(words: Sequence[str], right: Sequence[str]) -> float:
    if not words or not right:
        return float(words == right)
    common = (Counter(words) & Counter(right)).total()
    return 2 * common / (len(words) + len(right))
