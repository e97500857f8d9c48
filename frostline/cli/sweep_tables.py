"""What training did, on the terminal: the best of each group, and what each factor is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from frostline.cli.console import console, say, warn

if TYPE_CHECKING:
    from pathlib import Path

    from rich.table import Table

    from heads.config import HeadConfig
    from heads.search.trials import ScoredCandidate
    from heads.training import HeadsRun

SHOWN = 5  # of each head and optimizer
DIVERGED = 3  # heads that are named
NOTHING: Mapping[HeadConfig, float] = {}


def tell_heads(name: str, done: HeadsRun, folder: Path, images: int) -> None:
    """Print what training on a cache did: counts, and the comparison if there was one."""
    tried = f"{done.tried} tried, " if done.tried else ""
    say(
        f"{name}: {tried}{done.trained} head(s) trained, "
        f"{len(done.heads) - done.trained} already in {folder}"
    )
    if done.left_out:
        warn(f"{done.left_out} of {images} images could not be read: left out")
    for remark in done.remarks:
        warn(remark)
    for configuration in done.diverged[:DIVERGED]:
        warn(
            f"{configuration.head} with {configuration.optimizer} diverged at a learning rate of "
            f"{configuration.learning_rate:g}: left out; give a smaller --lr"
        )
    if done.ranked:
        shown = console()
        for table in (best_of_each(done.ranked, done.ungrouped), table_of_effects(done.ranked)):
            if table.row_count:
                shown.print(table)


def best_of_each(
    ranked: Sequence[ScoredCandidate], ungrouped: Mapping[HeadConfig, float] = NOTHING
) -> Table:
    """Show the best candidates of each head and optimizer, the chosen one in bold.

    Args:
        ungrouped: What some would have had if near duplicates could be on both sides of a fold.
    """
    from rich.table import Table

    from heads.search.trials import FIELDS

    varying = [
        field
        for field in FIELDS
        if field not in ("head", "optimizer")
        and len({getattr(each.candidate, field) for each in ranked}) > 1
    ]
    diverged = sum(not each.score.cv_fits for each in ranked)
    title = f"Best of {len(ranked)} configurations on validation"
    if diverged:
        title += f" ({diverged} diverged)"
    table = Table(title=title, title_justify="left")
    for column in ("head", "optimizer", *(field.replace("_", " ") for field in varying)):
        table.add_column(column, no_wrap=True)
    for column in (
        "val acc",
        "spread",
        "calibrated loss",
        "of",
        *(["ungrouped"] if ungrouped else []),
    ):
        table.add_column(column, justify="right", no_wrap=True)
    groups: dict[tuple[str, str], list[ScoredCandidate]] = {}
    for each in ranked:
        groups.setdefault((each.candidate.head, each.candidate.optimizer), []).append(each)
    for group, members in groups.items():
        for each in members[:SHOWN]:
            score = each.score
            settings = [_setting(each.candidate, field) for field in varying]
            numbers = [
                "diverged" if not score.cv_fits else f"{score.accuracy:.3f}",
                "" if score.spread != score.spread else f"{score.spread:.3f}",
                "" if not score.cv_fits else f"{score.calibrated_loss:.3g}",
                str(score.cv_fits),
            ]
            if ungrouped:
                naive = ungrouped.get(each.candidate)
                numbers.append("" if naive is None else f"{naive:.3f}")
            style = "bold" if each.chosen else None
            table.add_row(*group, *settings, *numbers, style=style)
        table.add_section()
    return table


def table_of_effects(ranked: Sequence[ScoredCandidate]) -> Table:
    """Show the mean validation accuracy of every level of every factor that varies."""
    from rich.table import Table

    from heads.search.trials import effects

    title = "What each choice is worth, all others equal"
    table = Table(title=title, title_justify="left", min_width=len(title))
    for column in ("factor", "level"):
        table.add_column(column, no_wrap=True)
    for column in ("mean val acc", "over"):
        table.add_column(column, justify="right", no_wrap=True)
    last = None
    for effect in effects(ranked):
        if last not in (None, effect.factor):
            table.add_section()
        name = "" if effect.factor == last else effect.factor.replace("_", " ")
        table.add_row(name, _short(effect.level), f"{effect.accuracy:.4f}", str(effect.candidates))
        last = effect.factor
    return table


def _setting(candidate: HeadConfig, field: str) -> str:
    """Return a field's value, if it means anything to this head."""
    return "" if field in candidate.unused_fields() else _short(getattr(candidate, field))


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
