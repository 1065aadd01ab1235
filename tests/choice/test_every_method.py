"""Every method of a study file makes its selection from what the stages left, with a reason for each pick."""

from collections import Counter

import numpy as np
import pytest

import instsel
from instsel.attribution.kernel import subtask_means
from instsel.attribution.scores import attribute
from instsel.choice.influence import influence_matrix, kernel_matrix
from instsel.config.file import parse_study
from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.pipeline.registry import build_graph
from instsel.selection import smart
from instsel.selection.base import AttributionSpec
from instsel.selection.g2is import component_budgets
from instsel.study.folder import Manifest
from instsel.study.reader import StudyReader
from instsel.study.results import SelectResult

REASONS = {
    "random-baskets": "uniform draw from baskets, seed 0",
    "random-1": "uniform draw, seed 1",
    "random-lengths": "uniform draw of the lengths of bids, seed 0",
    "proportional": "uniform draw, seed 0, within source ",
    "equal": "uniform draw, seed 0, within task ",
    "longest": " answer tokens",
    "perplexity": "base loss ",
    "ifd": "the instruction ",
    "rds": "validation example ",
    "less": "subtask ",
    "less-means": "subtask ",
    "bids": "validation example ",
    "round_robin": "validation example ",
    "bm25": "validation example ",
    "bm25-sums": "validation example sums:",
    "less-quotas": "quota of ",
    "bids-quotas": "quota of ",
    "bids-fisher": "validation example ",
    "bids-contrast": "validation example ",
    "bids-sums": "validation example sums:",
    "instance_max": "validation example ",
    "task_max": "target ",
    "sum": "sum of influences",
    "g2is": "principal component ",
    "g2is-fisher": "principal component ",
    "g2is-contrast": "principal component ",
    "smart": "source ",
    "facility_location": "gain in coverage",
    "graph_cut": "gain in likeness",
    "log_det": "gain in volume",
}


@pytest.fixture(scope="module")
def reader(every_method):
    return StudyReader(Folder.at(every_method["out"]))


@pytest.mark.parametrize("name", REASONS)
def test_every_method_makes_its_selection_and_says_why(name, every_method, reader):
    table = (reader.study / "select" / name).read_table("selected.parquet")
    # A walk may find no row that conflicts with none.
    assert table.num_rows == 6 or (name == "g2is-fisher" and 0 < table.num_rows < 6)
    assert len(set(table["id"].to_pylist())) == table.num_rows
    assert set(table["id"].to_pylist()) <= set(reader.index["id"].to_pylist())
    assert all(REASONS[name] in reason for reason in table["reason"].to_pylist())
    assert np.isfinite(table["score"].to_numpy()).all()


def test_the_gain_of_every_task_of_smart_is_kept(reader):
    gains = (reader.study / "select/smart").read_json("manifest.json")["result"]["task_gains"]
    matrix = reader.embeddings()
    source = dict(zip(*(reader.index[key].to_pylist() for key in ("id", "source")), strict=True))
    assert gains == pytest.approx(smart.task_gains(matrix.values, [source[row] for row in matrix.ids]))


def test_the_share_of_every_component_of_g2is_is_kept_and_gives_the_budget(reader):
    result = (reader.study / "select/g2is").read_json("manifest.json")["result"]
    shares = np.array(list(result["component_shares"].values()))
    assert list(result["component_shares"]) == [str(number + 1) for number in range(len(shares))]
    assert shares.sum() == pytest.approx(1) and (np.diff(shares) <= 0).all()
    # What the walks left was filled up, so that every component has its whole budget.
    reasons = (reader.study / "select/g2is").read_table("selected.parquet")["reason"].to_pylist()
    budgets = {
        f"principal component {number + 1}": rows for number, rows in enumerate(component_budgets(shares, 6)) if rows
    }
    assert Counter(reasons) == budgets


def test_quotas_are_kept_and_said(reader):
    for name, shares, per_target in [
        ("less-quotas", "equal", {"cities": 3, "sums": 3}),
        ("bids-quotas", {"sums": 0.7, "cities": 0.3}, {"cities": 2, "sums": 4}),
    ]:
        manifest = (reader.study / "select" / name).read_json("manifest.json")
        assert manifest["result"]["quotas"] == per_target
        assert manifest["settings"]["quotas"] == ({"cities": 0.5, "sums": 0.5} if shares == "equal" else shares)
        table = (reader.study / "select" / name).read_table("selected.parquet")
        matrix = reader.influence(AttributionSpec("cosine", None))
        targets, subtasks = (matrix.columns[key].to_pylist() for key in ("target", "subtask"))
        options = {"subtasks": subtasks} if name == "less-quotas" else {}
        expected = instsel.select(
            name.removesuffix("-quotas"), matrix.values, 6, quotas=shares, targets=targets, **options
        )
        assert table["id"].to_pylist() == [matrix.ids[row] for row in expected.indices]
        chosen_by = [reason.split(": ")[0].removeprefix("quota of ") for reason in table["reason"].to_pylist()]
        assert dict(Counter(chosen_by)) == per_target
    assert "quotas" not in (reader.study / "select/bids").read_json("manifest.json")["settings"]


def test_arms_have_the_rows_that_they_are_to_be_trained_on(reader):
    def result(name):
        return reader.result(f"select/{name}", SelectResult)

    bids, lengths, pool = result("bids"), result("random-lengths"), reader.prepared.pool
    assert (lengths.rows, result("full_pool").rows) == (bids.rows, pool.rows)
    assert lengths.tokens == pytest.approx(bids.tokens, rel=0.05)
    alone = result("validation_only")
    assert (alone.rows, alone.training.rows) == (0, 6) and alone.validation == alone.training
    # What the stages say they took, in a study that was never interrupted.
    extra = result("random-extra")
    assert extra.spent == {name: reader.manifest(name)["cost"]["tokens"] for name in ("warmup", "features")}
    # Its training has one epoch.
    limit = result("random-0").tokens + sum(extra.spent.values())
    assert extra.rows == pool.rows and limit - max(reader.index["tokens"].to_pylist()) < extra.trained.tokens <= limit


def test_runs_of_several_training_seeds_share_their_selection(every_method):
    graph = build_graph(parse_study(every_method, "test"), Folder.at(every_method["out"]))
    assert [run.selection for name, run in graph.runs.items() if name.startswith("less-") and run.method.name == "less"]
    assert (graph.runs["less-0"].selection, graph.runs["less-1"].selection) == ("less", "less")
    assert graph["finetune", "less-0"].settings["finetune"]["seed"] == 0
    assert graph["finetune", "less-1"].settings["finetune"]["seed"] == 1
    assert not Folder.at(every_method["out"]).exists("select/less-0")


def gradients(reader):
    columns = reader.columns()
    shards = [reader.gradients.pool(shard) for shard in reader.shards]
    pool = [np.concatenate([features[c] for _, features in shards]) for c in range(len(reader.weights))]
    return [row for ids, _ in shards for row in ids], pool, reader.gradients.validation(columns), columns


@pytest.mark.parametrize("damping", [None, 0.1])
def test_the_stages_influence_is_that_of_the_formula_and_directions_keep_their_order_in_the_file(damping, reader):
    """safetensors once wrote the memory of a transposed array, so fisher's directions were read back mixed."""
    ids, pool, validation, columns = gradients(reader)
    stored = reader.influence(AttributionSpec("cosine" if damping is None else "fisher", damping))
    expected = attribute(pool, validation, reader.weights, damping=damping)
    order = [columns["id"].to_pylist().index(name) for name in stored.columns["id"].to_pylist()]
    assert stored.ids == ids and not stored.values.flags.writeable
    np.testing.assert_allclose(stored.values, expected[:, order], atol=1e-4 * np.abs(expected).max())


def test_influence_on_the_mean_gradient_has_a_column_a_subtask(reader):
    _, pool, validation, columns = gradients(reader)
    stored = reader.influence(AttributionSpec("cosine", None, "gradients"))
    means = [subtask_means(rows, columns["subtask"].to_pylist())[0] for rows in validation]
    assert stored.columns["subtask"].to_pylist() == ["cities", "sums"]
    np.testing.assert_allclose(stored.values, attribute(pool, means, reader.weights), atol=1e-5)


@pytest.mark.parametrize("influence", [AttributionSpec("fisher", 0.7), AttributionSpec("cosine", None, "gradients")])
def test_influence_that_no_stage_made_is_worked_out_from_the_gradients(influence, reader, monkeypatch):
    _, pool, validation, columns = gradients(reader)
    monkeypatch.setattr(StudyReader, "influence", lambda self, influence: None)
    matrix = influence_matrix(reader, influence)
    if influence.average == "gradients":
        validation = [subtask_means(rows, columns["subtask"].to_pylist())[0] for rows in validation]
    expected = attribute(pool, validation, reader.weights, damping=influence.damping)
    np.testing.assert_allclose(matrix.values, expected, atol=1e-4 * np.abs(expected).max())


def test_contrast_compares_the_pool_with_gradients_of_its_own(reader, monkeypatch):
    _, pool, plain, columns = gradients(reader)
    validation, contrast_columns = reader.validation_gradients("contrast")
    assert contrast_columns.to_pylist() == columns.to_pylist()
    expected = attribute(pool, validation, reader.weights)
    assert np.abs(expected - attribute(pool, plain, reader.weights)).max() > 0.1
    spec = AttributionSpec("contrast", None)
    np.testing.assert_allclose(reader.influence(spec).values, expected, atol=1e-5)
    monkeypatch.setattr(StudyReader, "influence", lambda self, influence: None)
    np.testing.assert_allclose(influence_matrix(StudyReader(reader.study), spec).values, expected, atol=1e-5)
    train, directions = kernel_matrix(reader, spec, ["cities"])
    kept = [column for column, target in enumerate(columns["target"].to_pylist()) if target == "cities"]
    np.testing.assert_allclose(train.values @ directions.T, expected[:, kept], atol=1e-5)


@pytest.mark.parametrize("damping", [None, 0.1])
def test_the_walks_features_have_the_influence_as_inner_products(damping, reader):
    ids, pool, validation, columns = gradients(reader)
    train, directions = kernel_matrix(reader, AttributionSpec("fisher" if damping else "cosine", damping), ["cities"])
    kept = [column for column, target in enumerate(columns["target"].to_pylist()) if target == "cities"]
    expected = attribute(pool, validation, reader.weights, damping=damping)[:, kept]
    assert train.ids == ids and train.columns["target"].to_pylist() == ["cities"] * len(kept)
    np.testing.assert_allclose(train.values @ directions.T, expected, atol=1e-4 * np.abs(expected).max())


def test_gradients_come_back_with_the_length_they_had(reader):
    """Means of gradients need it; the rows themselves are kept at length one."""
    _, _, validation, columns = gradients(reader)
    lengths = np.linalg.norm(validation[0], axis=1)
    norms = {}
    for target in ("sums", "cities"):
        table = (reader.study / "features/epoch-1/validation").read_table(f"{target}.arrow")
        norms |= dict(zip(table["id"].to_pylist(), table["norm"].to_pylist(), strict=True))
    np.testing.assert_allclose(lengths, [norms[name] for name in columns["id"].to_pylist()], rtol=1e-5)
    assert lengths.std() > 0.01 * lengths.mean()


def test_a_stage_that_is_missing_is_named(tmp_path):
    with pytest.raises(InputError, match="has no finished stage 'embed'; run the study with a method that reads it"):
        StudyReader(Folder.at(tmp_path)).embeddings()
    with pytest.raises(InputError, match="has no finished stage 'prepare'"):
        _ = StudyReader(Folder.at(tmp_path)).index


@pytest.mark.parametrize("changed", ["prepare", "warmup", "features"])
@pytest.mark.parametrize("how", ["done again", "begun again"])
def test_what_was_made_from_another_stage_than_is_there_is_refused(changed, how, tmp_path):
    """Only the stage right before was once looked at, and one that had just been begun again was not."""
    chain = {"prepare": [], "warmup": ["prepare"], "features": ["warmup"], "attribution/cosine": ["features"]}
    other = dict.fromkeys(Manifest.__required_keys__)
    for name, parents in chain.items():
        manifest = {**other, "fingerprint": name, "parents": {parent: parent for parent in parents}}
        (Folder.at(tmp_path) / name).write_json("manifest.json", manifest)
    assert StudyReader(Folder.at(tmp_path)).manifest("attribution/cosine")["fingerprint"] == "attribution/cosine"
    manifest = {**other, "fingerprint": "new", "parents": {parent: parent for parent in chain[changed]}}
    if how == "done again":
        (Folder.at(tmp_path) / changed).write_json("manifest.json", manifest)
    else:
        (tmp_path / changed / "manifest.json").unlink()
    with pytest.raises(InputError, match=f"is not of the {changed} that is there now; run the study again"):
        StudyReader(Folder.at(tmp_path)).manifest("attribution/cosine")


@pytest.mark.parametrize("content", ["[]", '{"fingerprint": "prepare"}', "{"])
def test_a_manifest_that_is_none_is_named(content, tmp_path):
    Folder.at(tmp_path / "prepare").write("manifest.json", content.encode())
    with pytest.raises(InputError, match=r"prepare/manifest\.json is (no manifest of a stage|damaged)"):
        StudyReader(Folder.at(tmp_path)).manifest("prepare")
