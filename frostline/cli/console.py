"""What people see on the terminal: lines, progress bars, tables."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from typing import TYPE_CHECKING, TextIO

import click

from evaluate.text import printable

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console
    from rich.table import Table

    from cache.errors import Failure
    from cache.progress import Progress
    from evaluate.leaderboard import Leaderboard
    from evaluate.results import Row
    from extract.backends.environment import Finding
    from extract.pipeline import Extraction

UNREAD = 141  # exit code of a program whose output nobody reads: 128 + SIGPIPE
SHOWN_FAILURES = 5
WIDE = 118  # characters that the whole table of results needs
# Columns shown below.
NARROW = ("id", "backbone", "device", "head", "optim", "mode", "val acc", "test acc")
NUMBERS = ("id", "val acc", "test acc", "F1", "AUC", "infer s", "train s")


def say(*lines: str, err: bool = False) -> None:
    """Print a result.

    Args:
        err: On standard error, where standard output is for a program.
    """
    click.echo("\n".join(map(printable, lines)), err=err)


def warn(*lines: str) -> None:
    """Print what the user should know, on standard error."""
    click.secho("\n".join(map(printable, lines)), fg="yellow", err=True)


def console(stderr: bool = False) -> Console:
    """Return what prints tables and bars; into a file or pipe, 160 characters wide."""
    from rich.console import Console

    class Quiet(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # as everything else that prints; see `quiet_when_unread`

    found = Quiet(stderr=stderr)
    return found if found.is_terminal else Quiet(stderr=stderr, width=160)


def use_utf8_output() -> None:
    """Make names of any script printable: UTF-8 into files and pipes, whatever the locale says; a
    terminal shows what it can, and question marks for the rest.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            encoding = None if stream.isatty() else "utf-8"
            stream.reconfigure(encoding=encoding, errors="replace")


@contextmanager
def quiet_when_unread() -> Iterator[None]:
    """End quietly, as SIGPIPE would, when nobody reads what is printed any more (`… | head`)."""
    try:
        yield
    except BrokenPipeError:
        unread = [stream for stream in (sys.stdout, sys.stderr) if _is_unread(stream)]
        if not unread:
            raise  # another pipe
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in unread:
            os.dup2(nowhere, stream.fileno())  # for what is flushed at the end
        raise click.exceptions.Exit(UNREAD) from None


def _is_unread(stream: TextIO) -> bool:
    """Tell whether the other end of a pipe is closed."""
    if sys.platform == "win32":
        return True
    import select

    poll = select.poll()
    try:
        poll.register(stream.fileno(), 0)
    except (OSError, ValueError):  # no file
        return False
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


@contextmanager
def bar(title: str, unit: str) -> Iterator[Progress]:
    """Show a progress bar with rate and time left while the body works."""
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
    shown = console(stderr=True)
    with Bars(*columns, console=shown, transient=True, disable=not shown.is_terminal) as bars:
        task = bars.add_task(escape(printable(title)), total=None, rate="")

        def progress(done: int, total: int) -> None:
            speed = bars.tasks[task].speed
            rate = f"{speed:,.1f} {unit}/s" if speed else ""
            bars.update(task, completed=done, total=total, rate=rate)

        yield progress


def print_extractions(
    done: Sequence[Extraction], images: int, unopened: Sequence[Failure], table: Path
) -> None:
    """Print what an extraction did, where its time went and what it could not read.

    Args:
        images: How many there were.
        unopened: Files that could not even be hashed.
        table: The file that lists all failures.
    """
    for each in done:
        key = each.cache.key
        for trouble in each.trouble:
            warn(f"{trouble}; {each.engine} computed instead")
        when = "verified earlier: " if each.verified_earlier else ""
        far = f", {when}within {each.deviation:.1g} of torch's at fp32" if each.deviation else ""
        what = f"row(s) of {each.views + 1} views" if each.views else "image(s)"
        by = f" (computed by {each.engine}{far})" if each.engine else ""
        say(
            f"{key.backbone} on {key.device}: {each.computed} {what} computed, "
            f"{each.present} already in {each.cache.folder}{by}"
        )
    _print_stages(done)
    _print_several_pages(list(dict.fromkeys(path for each in done for path in each.several_pages)))
    failed = [*unopened, *(failure for each in done for failure in each.failed)]
    _print_failures(failed, images, table)


def print_workers(workers: Mapping[str, Mapping[str, float]]) -> None:
    """Print what each worker of a cluster did: its images and seconds, and the latter by stage."""
    from rich.markup import escape
    from rich.table import Table

    from extract.timings import STAGES

    table = Table(title="Seconds by worker", title_justify="left")
    table.add_column("worker", no_wrap=True)
    for name in ("images", "images/s", *STAGES):
        table.add_column(name, justify="right", no_wrap=True)
    for name, did in sorted(workers.items()):
        rate = did["images"] / did["seconds"] if did["seconds"] else 0.0
        times = (f"{did[stage]:.1f}" for stage in STAGES)
        table.add_row(escape(printable(name)), f"{did['images']:,.0f}", f"{rate:.1f}", *times)
    if workers:
        console().print(table)


def _print_stages(done: Sequence[Extraction]) -> None:
    from extract.timings import describe_stages, sum_stages

    spent = sum_stages(each.spent for each in done)
    if any(each.computed for each in done):
        say(describe_stages(spent))


def _print_failures(failed: Sequence[Failure], total: int, table: Path) -> None:
    """Print how many images could not be read, and the first of them; keep all in a table."""
    from evaluate.workspace.failures import write_failures

    first = list({failure.path: failure for failure in failed}.values())
    write_failures(table, failed)
    if first:
        warn(f"{len(first):,} of {total:,} images could not be read: see {table}")
    for failure in first[:SHOWN_FAILURES]:
        warn(f"  {failure.path}: {failure.reason}")


def _print_several_pages(paths: Sequence[str]) -> None:
    """Print that of some files one page was used, if there are such."""
    if paths:
        warn(
            f"{len(paths):,} file(s) have several pages or frames, of which the first was used, "
            f"such as {paths[0]}"
        )


def ranked_table(study: Leaderboard, width: int) -> Table:
    """Show a study's models, the best on validation first; if narrow, only the main columns."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(printable(f"Models {study.title}")), title_justify="left")
    rows = [_cells(study, row) for row in study.rows]
    shown = [
        name
        for name in rows[0]
        if (width >= WIDE or name in NARROW) and any(cells[name] for cells in rows)
    ]
    for name in shown:
        widest = max(len(cells[name]) for cells in rows)  # ids and numbers are never cut
        table.add_column(
            name,
            justify="right" if name in NUMBERS else "left",
            no_wrap=True,
            min_width=max(widest, len(name)) if name in NUMBERS else None,
        )
    for position, cells in enumerate(rows):
        style = "bold" if position == 0 else None
        table.add_row(*(escape(printable(cells[name])) for name in shown), style=style)
    return table


def _cells(study: Leaderboard, row: Row) -> dict[str, str]:
    from heads.config import FROZEN

    def score(name: str) -> str:
        return "-" if row[name] != row[name] else f"{row[name]:.3f}"

    return {
        "id": str(row["model_id"]),
        "backbone": row["pretrained_model"],
        "device": row["hardware_type"],
        "head": row["classifier_head"],
        "optim": row["opt_alg"],
        "mode": "" if row["mode"] == FROZEN else row["mode"],
        "weights": row["weights"],
        "val acc": score("val_accuracy"),
        "test acc": score("accuracy"),
        "F1": score("f1"),
        "AUC": score("roc_auc"),
        "infer s": f"{row['inference_time_secs']:.2f}",
        "train s": f"{row['training_time_mins'] * 60:.2f}",
        "differs in": study.settings(row),
    }


def show_findings(findings: Iterable[Finding]) -> None:
    """Print what the doctor found, a line each, unbroken: paths and addresses can be copied."""
    for finding in findings:
        mark = click.style("yes", fg="green") if finding.present else click.style("no ", fg="red")
        click.echo(f"{finding.kind:8}{finding.name:20}{mark}  {printable(finding.note)}")
