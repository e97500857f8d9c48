"""`report/index.html`: one self-contained file, made from results, heads, caches and images."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from cache.files import check_replaceable, replacing
from evaluate.audit.findings import Audit
from evaluate.constraints import NO_LIMITS, Limits
from evaluate.leaderboard import cautions, describe_confusions, studies
from evaluate.report.context import ReportContext, gather
from evaluate.report.published_results import read_published
from evaluate.report.sections.audit import audited
from evaluate.report.sections.comparison import evidence
from evaluate.report.sections.constraints import constrained
from evaluate.report.sections.devices import device_parity
from evaluate.report.sections.embedding_map import embedding_map
from evaluate.report.sections.external_sets import on_other_images
from evaluate.report.sections.leaderboard import beside_ours, model, ranking
from evaluate.report.sections.metrics import quality
from evaluate.report.sections.modes import frozen_or_whole
from evaluate.report.sections.provenance import extractions, provenance
from evaluate.report.sections.samples import samples
from evaluate.report.sections.speed import costs, trade_off
from evaluate.report.sections.training import courses
from evaluate.report.sections.uncertainty import doubts
from evaluate.text import printable
from evaluate.workspace.current_study import current_first
from evaluate.workspace.image_files import ImageFiles
from evaluate.workspace.layout import Workspace

LEFT_OUT = 5  # files that are named
TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Section:
    """A section of the report.

    Attributes:
        show: What the template of this name draws; None or nothing: the section is absent.
    """

    heading: str
    show: Callable[[ReportContext], Any]


def _audited(context: ReportContext) -> dict[str, Any] | None:
    return audited(context.audit, context.files) if context.audit else None


# By the names of their templates, in order.
SECTIONS: dict[str, Section] = {
    "ranking": Section("All models, ranked", ranking),
    "evidence": Section("Model comparison", evidence),
    "choice": Section("The best that fits", constrained),
    "tradeoff": Section("Accuracy, latency and size", trade_off),
    "modes": Section("Frozen against trained as a whole", frozen_or_whole),
    "elsewhere": Section("On other images", on_other_images),
    "samples": Section("Predictions", samples),
    "quality": Section("Metrics", quality),
    "map": Section("Map of the images", embedding_map),
    "audit": Section("Audit of the images", _audited),
    "costs": Section("Time and size", costs),
    "training": Section("Training curves", courses),
    "devices": Section("Whether devices agree", device_parity),
    "doubt": Section("Review flags", doubts),
    "published": Section("Beside published results", beside_ours),
    "provenance": Section("Provenance", provenance),
}


def write_report(
    workspace: Workspace,
    baseline: Path | None = None,
    limits: Limits = NO_LIMITS,
    remark: Callable[[str], None] = lambda text: None,
) -> Path:
    """Write the report and return its path.

    A pure function of files: the same ones give the same bytes. What is not there is left out; so
    is a file that can't be used, which the page and remark name.

    Args:
        baseline: A table of published results, to stand beside ours.
        limits: Of what a model may cost; the best one that keeps them is named.

    Raises:
        ResultsError: there are no results, or `results.csv` or the baseline is damaged, or a page
            that is not ours would be overwritten.
    """
    published = tuple(read_published(baseline)) if baseline else ()
    found = [
        gather(study, workspace, published, limits)
        for study in current_first(studies(workspace.results), workspace)
    ]
    parts = [_study(context, f"s{number}") for number, context in enumerate(found, start=1)]
    costs = found[0].read(partial(extractions, workspace)) or []
    html = _render("index.html.jinja", studies=parts, extractions=costs)
    for line in dict.fromkeys(line for context in found for line in context.left_out):
        remark(line)
    return _write(workspace.report, html)


def write_audit_page(audit: Audit, path: Path, files: ImageFiles) -> Path:
    """Write what an audit found as a page of its own, and return its path.

    Args:
        files: Where its images are found; counts those that are not.

    Raises:
        ResultsError: another file is there.
        OSError: it can't be written.
    """
    return _write(path, _render("audit_page.html.jinja", it=audited(audit, files)))


def _study(context: ReportContext, name: str) -> dict[str, Any]:
    """Return what the templates show of one study;

    Args:
        name: Of its place in the page.
    """
    study = context.study
    shown = [
        (key, part.heading, context.read(partial(part.show, context)))
        for key, part in SECTIONS.items()
    ]
    sections = [
        {"id": key, "heading": heading, "content": content}
        for key, heading, content in shown
        if content
    ]
    content = {section["id"]: section["content"] for section in sections}
    if context.files.remark:
        context.left_out.append(context.files.remark)
    return {
        "id": name,
        "title": printable(study.title),
        "models": len(study.rows),
        "best": model(context, study.best),
        "guessing": 1 / len(context.classes),
        "undecided": _undecided(content.get("evidence")),
        "confused": printable(describe_confusions(study.best)),
        "cautions": [
            printable(line)
            for line in (*cautions(study), *_properties(context.audit), *_left_out(context))
        ],
        "sections": sections,
    }


def _left_out(context: ReportContext) -> list[str]:
    """Name the files that could not be used, as they are called in the workspace."""
    lines = list(dict.fromkeys(context.left_out))
    told = [line.replace(f"{context.workspace.root}/", "") for line in lines[:LEFT_OUT]]
    more = len(lines) - len(told)
    return [f"Left out: {line}" for line in told] + [f"Left out: {more} more files."] * bool(more)


def _properties(audit: Audit | None) -> list[str]:
    return [each.note for each in audit.properties] if audit else []


def _undecided(evidence: dict[str, Any] | None) -> str:
    """Say how many of the others the images can't tell from the best."""
    against = evidence["against"] if evidence else None
    if not against:
        return ""
    others, undecided = len(against["others"]), against["undecided"]
    images = f"with these {against['images']:,} images"
    if undecided == others:
        return f"None of the {others} others compared can be told from it {images}."
    return f"{undecided} of the {others} others compared can't be told from it {images}."


def _render(template: str, **content: Any) -> str:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**content)


def _shown(value: Any) -> Any:
    """Show text as on the terminal; what is HTML already stays as it is."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _write(path: Path, html: str) -> Path:
    check_replaceable(path, b"Frostline", what="The page")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(html, encoding="utf-8", errors="replace")
    return path
