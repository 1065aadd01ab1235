import pytest
from pydantic import ValidationError

from instsel.config.file import parse_study
from instsel.config.search import Search
from instsel.errors import InputError
from instsel.search.space import check_space, study_of


@pytest.fixture
def study(tiny_study):
    def make(**parts):
        methods = ["random", {"method": "bids", "name": "balanced", "seeds": [3, 4], "normalize": False}]
        return parse_study(tiny_study(**{"selection": {"budget": 0.25, "methods": methods}, **parts}), "test")

    return make


def test_trial_has_one_method_with_one_seed_and_the_points_values(study):
    point = {"method": "balanced", "selection.budget": 5, "finetune.epochs": 3, "finetune.learning_rate": 1e-4}
    made = study_of(study(search={"space": {"method": ["balanced"]}}), point)
    assert [method.name for method in made.selection.methods] == ["balanced"]
    assert made.selection.methods[0].seeds == [3]
    assert made.selection.methods[0].normalize is False
    assert (made.selection.budget, made.finetune.epochs, made.finetune.learning_rate) == (5, 3, 1e-4)
    assert made.finetune.batch_size == study().finetune.batch_size
    assert made.search is None


def test_without_a_method_in_the_space_the_first_one_is_taken(study):
    assert study_of(study(), {"selection.budget": 4}).selection.methods[0].name == "random"


def test_trials_do_not_split_their_gains_which_nothing_of_a_search_reads(study):
    made = study_of(study(evaluation={"form_and_content": True, "token_budget": 64}), {"selection.budget": 4})
    assert (made.evaluation.form_and_content, made.evaluation.token_budget) == (False, 64)


def test_a_trial_has_one_of_several_budgets(study):
    several = study(selection={"budget": [0.25, 0.5], "methods": ["random"]})
    with pytest.raises(InputError, match="a trial has one budget; write one as selection.budget, or several under"):
        study_of(several, {"finetune.epochs": 3})
    assert study_of(several, {"selection.budget": 0.5}).selection.budgets == [0.5]
    with pytest.raises(InputError, match="a trial has one budget"):
        check_space(study(), Search(space={"selection.budget": [0.5, [0.1, 0.2]]}))


def test_unknown_method_is_named(study):
    with pytest.raises(InputError, match="'best' is no method of the study; they are random, balanced"):
        study_of(study(), {"method": "best"})


def test_entry_that_refers_to_another_has_no_trials(study):
    methods = ["bids", {"method": "random", "name": "as-long", "lengths_of": "bids"}]
    with pytest.raises(InputError, match="'as-long' refers to 'bids', and a trial has one selection; leave it out"):
        check_space(
            study(selection={"budget": 0.25, "methods": methods}), Search(space={"method": ["bids", "as-long"]})
        )


def test_value_that_cannot_be_is_found_before_any_trial(study):
    search = Search(space={"selection.budget": [0.1, 1.5]})
    with pytest.raises(InputError, match="above 1"):
        check_space(study(), search)


def test_estimator_that_the_study_does_not_run_is_refused(study):
    search = Search(space={"mixture.estimator": ["gradients", "regression"]})
    with pytest.raises(InputError, match="regression is not run by the study; add it to mixture.compare"):
        check_space(study(mixture={"estimator": "gradients"}), search)


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"space": {"features.dim": [64]}}, "cannot be searched"),
        ({"space": {}}, "at least 1"),
        ({"space": {"method": []}}, "at least 1"),
        ({"space": {"method": {"low": 0, "high": 1}}}, "method is a choice"),
        ({"space": {"finetune.epochs": {"low": 0.5, "high": 2.5}}}, "whole number"),
        ({"space": {"finetune.learning_rate": {"low": 1e-3, "high": 1e-4}}}, "low has to be below"),
        ({"space": {"mixture.max_shift": {"low": 0.0, "high": 0.5, "log": True}}}, "above 0"),
        ({"space": {"finetune.learning_rate": {"low": 1e-4, "high": 1e-3}}, "searcher": "grid"}, "takes lists"),
        ({"space": {"finetune.epochs": [1, 2, 3]}, "searcher": "grid", "trials": 2}, "grid has 3 points"),
    ],
)
def test_search_that_makes_no_sense_is_refused(search, message):
    with pytest.raises(ValidationError, match=message):
        Search.model_validate(search)


def test_bug_another_estimator_could_not_be_searched(study):
    mixture = {"estimator": "gradients", "compare": ["regression"]}
    made = study(mixture=mixture)
    search = Search(space={"mixture.estimator": ["gradients", "regression"]})
    check_space(made, search)
    assert study_of(made, {"mixture.estimator": "regression"}).mixture.estimators == ["regression", "gradients"]
