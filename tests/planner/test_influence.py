"""Memory of stage *attribution*, against numbers worked out by hand."""

from instsel.planner.influence import attribution_memory, fisher_memory


def test_attribution_holds_the_validation_features_of_all_checkpoints():
    # 4 checkpoints, 500 validation rows of 8192 float32: 65.5 MB, and 16.4 MB scaled; 1,000 rows with their norms.
    working = 5 * 500 * 8192 * 4 + 1000 * 500 * 4 + 3 * 1000 * 8192 * 4
    assert attribution_memory(4, 1000, 500, 8192, "float16") == working + 4 * 1000 * (8192 * 2 + 4)
    assert attribution_memory(4, 1000, 500, 8192, "int8") == working + 4 * 1000 * (8192 + 8)


def test_fisher_holds_some_matrices_of_8192_by_8192():
    # Two of float64 and one of float32; four of float64.
    assert fisher_memory(8192) == ((2 * 8 + 4) * 8192**2, 4 * 8 * 8192**2)
