"""What people see on the terminal: lines, progress bars, tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.table import Table

    from cache.progress import Progress
    from cache.segments import Failure
    from evaluate.report import Study
    from evaluate.results import Row
    from extract.doctor import Finding

SHOWN_FAILURES = 5


def say(text: str) -> None:
    """Print a result."""
    click.echo(printable(text))


def warn(text: str) -> None:
    """Print what the user should know, on standard error."""
    click.secho(printable(text), fg="yellow", err=True)


def printable(text: str) -> str:
    """Show a file name that is no valid Unicode with question marks instead of an exception."""
    return text.encode("utf-8", "replace").decode()


@contextmanager
def bar(title: str, unit: str) -> Iterator[Progress]:
    """Show a progress bar with rate and time left while the body works."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(escape(printable(title)), total=None, rate="")

        def progress(done: int, total: int) -> None:
            speed = bars.tasks[task].speed
            rate = f"{speed:,.1f} {unit}/s" if speed else ""
            bars.update(task, completed=done, total=total, rate=rate)

        yield progress


def tell_failures(failed: Sequence[Failure], total: int) -> None:
    """Print how many images could not be read, and the first of them."""
    if failed:
        warn(f"{len(failed)} of {total:,} images could not be read and are left out:")
    for failure in failed[:SHOWN_FAILURES]:
        warn(f"  {failure.path}: {failure.reason}")
    if len(failed) > SHOWN_FAILURES:
        warn(f"  and {len(failed) - SHOWN_FAILURES} more")


def ranked_table(study: Study) -> Table:
    """Show a study's models, the best on validation first."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(printable(f"Models {study.title}")), title_justify="left")
    numbers = ("val acc", "test acc", "F1", "AUC", "infer s", "train s")
    for name in ("id", "backbone", "device", "head", "optim", "weights", *numbers):
        table.add_column(
            name, justify="right" if name in ("id", *numbers) else "left", no_wrap=True
        )
    for position, row in enumerate(study.rows):
        table.add_row(*_cells(row), style="bold" if position == 0 else None)
    return table


def _cells(row: Row) -> Iterator[str]:
    from rich.markup import escape

    yield str(row["model_id"])
    yield from (
        escape(row[c]) for c in ("pretrained_model", "hardware_type", "classifier_head", "opt_alg")
    )
    weights = escape(row["weights"])
    yield f"[red]{weights}[/red]" if weights.startswith("random") else weights
    yield from (f"{row[score]:.3f}" for score in ("val_accuracy", "accuracy", "f1", "roc_auc"))
    yield f"{row['inference_time_secs']:.2f}"
    yield f"{row['training_time_mins'] * 60:.2f}"


def findings_table(findings: Sequence[Finding]) -> Table:
    """Show what the doctor found."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="This machine", title_justify="left")
    for name in ("", "", "", "what it is, or how to get it"):
        table.add_column(name, overflow="fold")
    for finding in findings:
        mark = "[green]yes[/green]" if finding.present else "[red]no[/red]"
        table.add_row(finding.kind, finding.name, mark, escape(finding.note))
    return table
