import numpy as np

from lensemble.encoder.onnx.graph_inputs import pooling_rows


def test_pooling_rows_are_an_items_last_row_or_all_its_rows_with_padding():
    rows, weights = pooling_rows(np.array([0, 2, 5]), "last_token")
    assert (rows.tolist(), weights.tolist()) == ([[1], [4]], [[1], [1]])
    rows, weights = pooling_rows(np.array([0, 1, 3]), "mean")
    assert rows.tolist() == [[0, 0], [1, 2]]
    assert weights.tolist() == [[1, 0], [0.5, 0.5]]
