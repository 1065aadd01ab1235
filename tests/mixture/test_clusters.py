import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from instsel.mixture import clusters
from instsel.mixture.clusters import cluster, nearest

SIZES = (30, 20, 10)


@pytest.fixture
def blobs():
    """Rows around three directions, of all lengths, shuffled; and the group of each."""
    random = np.random.default_rng(0)
    group = random.permutation(np.repeat([0, 1, 2], SIZES))
    rows = np.eye(3, 8)[group] + 0.1 * random.normal(size=(60, 8))
    return (rows * random.uniform(0.01, 100, (60, 1))).astype(np.float32), group


def cosines(one, other):
    return (one / np.linalg.norm(one, axis=1, keepdims=True)) @ (other / np.linalg.norm(other, axis=1, keepdims=True)).T


def test_groups_of_directions_are_found_and_numbered_by_falling_size(blobs):
    rows, group = blobs
    labels, centroids = cluster(rows, 3, seed=0)
    assert (labels.dtype, centroids.dtype, centroids.shape) == (np.int64, np.float32, (3, 8))
    assert labels.tolist() == group.tolist()
    assert np.linalg.norm(centroids, axis=1) == pytest.approx(1)


def test_centroids_are_the_mean_directions(blobs):
    rows, group = blobs
    _, centroids = cluster(rows, 3, seed=0)
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    means = np.stack([units[group == number].mean(axis=0) for number in range(3)])
    np.testing.assert_allclose(centroids, means / np.linalg.norm(means, axis=1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize("count", [1, 3, 7])
def test_every_row_is_with_the_centroid_of_the_highest_cosine(blobs, count):
    rows, _ = blobs
    labels, centroids = cluster(rows, count, seed=1)
    assert labels.tolist() == cosines(rows, centroids).argmax(axis=1).tolist()
    assert labels.tolist() == nearest(rows, centroids).tolist()
    sizes = np.bincount(labels)
    assert len(sizes) == count
    assert sizes.tolist() == sorted(sizes, reverse=True)


def test_of_equal_clusters_that_with_the_lowest_row_comes_first():
    rows = np.repeat(np.eye(4)[[2, 0, 3, 1]], 2, axis=0)
    for seed in range(5):
        assert cluster(rows, 4, seed=seed)[0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_the_same_rows_get_the_same_labels_whatever_the_threads():
    rows = np.random.default_rng(3).normal(size=(3000, 16)).astype(np.float32)
    found = []
    for threads in (1, 2, 2):
        with threadpool_limits(limits=threads):
            found.append(cluster(rows, 12, seed=5))
    assert all((one[0] == found[0][0]).all() and (one[1] == found[0][1]).all() for one in found)


def test_equal_rows_have_equal_labels():
    rows = np.random.default_rng(4).normal(size=(200, 33)).astype(np.float32)
    labels, _ = cluster(np.concatenate([rows, rows[::-1], rows[50:150]]), 20, seed=0)
    assert (labels[:200] == labels[200:400][::-1]).all()
    assert (labels[50:150] == labels[400:]).all()


@pytest.mark.parametrize(("rows", "kinds"), [(12, 3), (3, 3), (40, 1)])
def test_fewer_different_embeddings_make_fewer_clusters_and_a_warning(rows, kinds):
    embeddings = np.eye(4)[np.arange(rows) % kinds]
    with pytest.warns(UserWarning, match=f"{kinds} clusters, not 5") as caught:
        labels, centroids = cluster(embeddings, 5, seed=0)
    assert len(caught) == 1
    assert labels.tolist() == (np.arange(rows) % kinds).tolist()
    np.testing.assert_allclose(centroids, np.eye(4)[:kinds], atol=1e-6)


def test_rows_that_cancel_out_are_one_cluster_all_the_same():
    labels, centroids = cluster(np.array([[1.0, 0], [-1, 0]]), 1, seed=0)
    assert labels.tolist() == [0, 0]
    assert np.isfinite(centroids).all()


def test_a_large_pool_is_fitted_on_a_sample_and_mapped_from_disk(blobs, tmp_path, monkeypatch):
    rows, group = blobs
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    monkeypatch.setattr(clusters, "FIT_ROWS", 25)
    sampled, _ = cluster(mapped, 3, seed=0)
    assert sampled.tolist() == group.tolist()
    seen = []
    monkeypatch.setattr(clusters.KMeans, "fit", lambda self, units: seen.append(units) or _stop())
    with pytest.raises(StopIteration):
        cluster(mapped, 3, seed=0)
    assert seen[0].shape == (25, 8)
    assert (cosines(seen[0], rows).max(axis=1) > 1 - 1e-5).all()
    assert len(np.unique(seen[0], axis=0)) == 25


def _stop():
    raise StopIteration


@pytest.fixture
def small_blocks(monkeypatch):
    def turn_on():
        ordinary = clusters.row_blocks
        monkeypatch.setattr(clusters, "row_blocks", lambda count, size: ordinary(count, size, block_bytes=500))

    return turn_on


def test_blocks_change_nothing(blobs, small_blocks):
    rows, _ = blobs
    whole = cluster(rows, 5, seed=0)
    small_blocks()
    small = cluster(rows, 5, seed=0)
    assert (small[0] == whole[0]).all()
    assert (small[1] == whole[1]).all()


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
@pytest.mark.parametrize("fit_rows", [10, 1000])
def test_a_row_without_a_direction_is_named(blobs, value, fit_rows, monkeypatch, small_blocks):
    small_blocks()
    monkeypatch.setattr(clusters, "FIT_ROWS", fit_rows)
    rows = blobs[0].copy()
    rows[41] = value
    with pytest.raises(ValueError, match="embeddings, row 41"):
        cluster(rows, 3, seed=0)
    with pytest.raises(ValueError, match="embeddings, row 41"):
        nearest(rows, np.eye(3, 8))


@pytest.mark.parametrize(
    ("rows", "count", "message"),
    [(np.ones((0, 3)), 2, "got none"), (np.ones((3, 3)), 0, "count"), (np.ones(3), 1, "rank 2")],
)
def test_what_cannot_be_divided_is_refused(rows, count, message):
    with pytest.raises(ValueError, match=message):
        cluster(rows, count, seed=0)


def test_nearest_goes_by_direction_and_takes_the_first_of_equals():
    centroids = np.array([[0.0, 9.0], [1.0, 0.0], [2.0, 0.0]])
    assert nearest(np.array([[5.0, 1.0], [0.1, 0.2], [1.0, 1.0]]), centroids).tolist() == [1, 0, 0]
    assert nearest(np.ones((0, 2)), centroids).tolist() == []


def test_rows_between_two_centroids_go_to_the_first_whatever_the_order_of_the_sum():
    random = np.random.default_rng(0)
    centroid = np.append(random.integers(-63, 64, 99), 64)  # Its length is the same to the last digit from both ends.
    half = random.normal(size=(200, 50))
    rows = np.concatenate([half, half[:, ::-1]], axis=1)
    assert nearest(rows, np.stack([centroid, centroid[::-1]])).tolist() == [0] * 200


@pytest.mark.parametrize("centroids", [np.ones((2, 3)), np.ones((0, 2)), np.zeros((1, 2))])
def test_centroids_that_do_not_fit_are_refused(centroids):
    with pytest.raises(ValueError, match="centroids"):
        nearest(np.ones((4, 2)), centroids)
