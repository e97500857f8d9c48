"""Where an extraction's time went, and what would help."""

from collections.abc import Iterable, Mapping

STAGES = ("read", "decode", "build", "compute", "write", "waiting")
BOUND = 0.2  # of the time: waiting any longer than this for pictures, decoding is the limit


def sum_stages(spent: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Add up seconds by stage."""
    each = list(spent)
    return {stage: sum(seconds.get(stage, 0.0) for seconds in each) for stage in STAGES}


def describe_stages(spent: Mapping[str, float]) -> str:
    """Say where the time went, and what would help."""
    times = ", ".join(f"{stage} {spent.get(stage, 0):.1f} s" for stage in STAGES)
    return f"{times}: {advice(spent)}"


def advice(spent: Mapping[str, float]) -> str:
    """Say in one sentence what limited the run, and what would make it faster.

    read and decode are summed over all threads; compute and waiting are the run's own.
    """
    if spent["waiting"] <= BOUND * (spent["compute"] + spent["waiting"]):
        return "compute-bound: a lower --precision or an accelerator would help"
    if spent["read"] > spent["decode"]:
        return "read-bound: a faster disk would help, or more --workers"
    return "decode-bound: more cores would help, --workers if some are idle, or --fast-decode"
