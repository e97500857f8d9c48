"""The one rule by which candidates and models are ranked. Test images take no part in it."""

from math import inf

Preference = tuple[float, float, float, float, float]

# Decimals of a calibrated loss that count at first: a smaller difference is no evidence on the few
# images that equal accuracies are usual on, and the more regularised head is taken.
DECIMALS = 2


def preference(
    accuracy: float, calibrated_loss: float, weight_decay: float, parameters: float
) -> Preference:
    """Return a sort key, the best first: see below; NaN comes last.

    - accuracy: on validation images, or the mean over folds. Rounded, as the last digits of a mean
      are no difference.
    - calibrated_loss: cross entropy after temperature scaling, to DECIMALS. Not before it, which
      would reward overconfidence.
    - weight_decay: the stronger regularisation.
    - parameters: the simpler model.
    - calibrated_loss: all of it.
    """
    loss = inf if calibrated_loss != calibrated_loss else calibrated_loss
    score = inf if accuracy != accuracy else -round(accuracy, 9)
    return score, round(loss, DECIMALS), -weight_decay, parameters, loss
