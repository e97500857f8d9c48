"""Words of `results.csv` that are compared with. Without pandas: `predict` needs them too."""

from heads.configuration import FROZEN

STUDYS_OWN = "-"  # `also` of a row on the study's own test set
TRAINED = "trained"  # what weights are called that were trained here, together with a head
REHASH = "rehash"  # of a command's context: whether it has that option
NOT_TRAINED = (FROZEN, "transfer")  # modes in which the backbone keeps the weights it began with
