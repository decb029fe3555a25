"""The focal loss against the paper's formula."""

import numpy as np
import pytest

from pump_ml.models.losses import SparseFocalLoss

PROBABILITIES = np.array([[0.9, 0.05, 0.05], [0.2, 0.5, 0.3], [0.1, 0.8, 0.1]], dtype=np.float32)
TRUE = np.array([0, 1, 2])
OF_TRUE = np.array([0.9, 0.5, 0.1])


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_it_is_the_formula_of_lin_et_al(gamma: float) -> None:
    found = SparseFocalLoss(gamma, reduction=None)(TRUE, PROBABILITIES)
    np.testing.assert_allclose(np.asarray(found), -((1.0 - OF_TRUE) ** gamma) * np.log(OF_TRUE), rtol=1e-5)


def test_an_answer_of_90_percent_counts_a_hundredth_with_gamma_2() -> None:
    """The paper's own example: with gamma = 2, p = 0.9 has 100 times lower loss than with cross-entropy."""
    plain, focal = (np.asarray(SparseFocalLoss(g, reduction=None)(TRUE, PROBABILITIES)) for g in (0.0, 2.0))
    assert plain[0] / focal[0] == pytest.approx(100.0, rel=1e-4)


def test_without_gamma_it_is_cross_entropy() -> None:
    import keras

    found = SparseFocalLoss(0.0)(TRUE, PROBABILITIES)
    assert float(found) == pytest.approx(
        float(keras.losses.SparseCategoricalCrossentropy()(TRUE, PROBABILITIES)), rel=1e-6
    )


def test_labels_may_be_a_column() -> None:
    loss = SparseFocalLoss(2.0)
    assert float(loss(TRUE[:, None], PROBABILITIES)) == pytest.approx(float(loss(TRUE, PROBABILITIES)))


def test_an_answer_that_is_wholly_wrong_has_a_finite_loss() -> None:
    assert np.isfinite(float(SparseFocalLoss(2.0)(np.array([1]), np.array([[1.0, 0.0]], dtype=np.float32))))
