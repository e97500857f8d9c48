"""The only rule by which candidates and models are ranked; it does not use test images."""

from math import inf

Preference = tuple[float, float, float, float, float]

# A smaller difference of calibrated losses is no evidence on the few images on which accuracies
# are often equal; then the more regularised head is better.
DECIMALS = 2


def preference(
    accuracy: float, calibrated_loss: float, weight_decay: float, parameters: float
) -> Preference:
    """Return a sort key, the best first and NaN last. It compares, in this order:

    - accuracy on validation images, or the mean over folds; its last digits are rounded away.
    - calibrated_loss, the cross entropy after temperature scaling, to DECIMALS. The loss before
      scaling would reward overconfidence.
    - weight_decay: stronger regularisation is better.
    - parameters: fewer are better.
    - calibrated_loss with all digits.
    """
    loss = inf if calibrated_loss != calibrated_loss else calibrated_loss
    score = inf if accuracy != accuracy else -round(accuracy, 9)
    return score, round(loss, DECIMALS), -weight_decay, parameters, loss
