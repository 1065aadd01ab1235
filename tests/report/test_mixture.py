"""Findings about categories in words."""

from instsel.report.mixture import agreement_in_words


def test_an_agreement_is_told_with_what_is_known_of_it():
    known = {"correlation": 0.5, "low": -0.1, "high": 0.9, "within": 0.25, "entries": 30}
    assert agreement_in_words("a against b", known) == (
        "a against b: Spearman's rank correlation 0.50 [−0.10, 0.90] over 30 pairs of categories; "
        "0.25 on average within an evaluated category."
    )
    said = agreement_in_words("a against b", {**known, "low": None, "high": None, "within": None})
    assert said.endswith("rank correlation 0.50 over 30 pairs of categories.")
    assert "too few entries" in agreement_in_words("a against b", {**known, "correlation": None})
