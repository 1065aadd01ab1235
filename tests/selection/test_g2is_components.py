import numpy as np
import pytest
from sklearn.decomposition import PCA

from instsel.selection.g2is import core_knowledge


def gradients(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((30, 8)) * [9, 5, 3, 2, 1, 1, 0.5, 0.1] + 1.0


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_components_and_shares_are_those_of_scikit_learn(share: float) -> None:
    rows = gradients()
    reference = PCA(n_components=share, svd_solver="full").fit(rows)
    components, shares = core_knowledge(rows, explained_variance=share)
    np.testing.assert_allclose(components, reference.components_, atol=1e-10)
    ratios = reference.explained_variance_ratio_
    np.testing.assert_allclose(shares, ratios / ratios.sum())


def test_all_of_the_variance_takes_no_direction_without_variance() -> None:
    rows = gradients()
    rows[:, 3] = 2 * rows[:, 0]
    components, shares = core_knowledge(rows, explained_variance=1.0)
    assert len(components) == 7
    assert shares.sum() == pytest.approx(1)


def test_align_turns_components_towards_the_mean_gradient() -> None:
    turned = 0
    for seed in range(5):
        rows = gradients(seed)
        released, _ = core_knowledge(rows, explained_variance=0.99)
        aligned, _ = core_knowledge(rows, explained_variance=0.99, sign="align")
        assert (aligned @ rows.mean(axis=0) > 0).all()
        assert (np.abs(np.einsum("qd,qd->q", released, aligned)) > 1 - 1e-12).all()
        turned += int((np.einsum("qd,qd->q", released, aligned) < 0).sum())
    assert turned > 0


def test_align_leaves_a_component_at_right_angles_to_the_mean() -> None:
    rows = np.array([[0.1, 3.0], [0.1, -3.0], [0.3, 3.0], [0.3, -3.0]])
    released, _ = core_knowledge(rows)
    aligned, _ = core_knowledge(rows, sign="align")
    np.testing.assert_allclose(released, [[0.0, 1.0]], atol=1e-12)
    assert aligned.tolist() == released.tolist()


def test_one_row_is_its_own_direction() -> None:
    components, shares = core_knowledge(np.array([[-3.0, 4.0]]))
    np.testing.assert_allclose(components, [[-0.6, 0.8]])
    assert shares.tolist() == [1.0]


def test_equal_rows_have_the_direction_of_their_mean() -> None:
    rows = np.full((3, 2), 0.1, dtype=np.float32)
    rows[1] = np.nextafter(rows[1], np.float32(1))
    components, shares = core_knowledge(rows)
    np.testing.assert_allclose(components, [[np.sqrt(0.5)] * 2], rtol=1e-6)
    assert shares.tolist() == [1.0]


@pytest.mark.parametrize("scale", [1e-250, 1e250])
def test_the_scale_of_the_gradients_does_not_matter(scale: float) -> None:
    rows = gradients()
    components, shares = core_knowledge(rows * scale)
    expected, expected_shares = core_knowledge(rows)
    np.testing.assert_allclose(components, expected, atol=1e-10)
    np.testing.assert_allclose(shares, expected_shares)
