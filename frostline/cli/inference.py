"""The steps that commands for using a model are made of: predict and export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cache.errors import HeadError, UnreadableImageError
from evaluate.text import printable
from frostline.cli.console import bar, say, warn

if TYPE_CHECKING:
    from evaluate.backbone_loader import ModelLoader
    from evaluate.workspace.image_files import ImageFiles
    from heads.store import TrainedHead


def predict(
    given: Sequence[Path], model: str, loader: ModelLoader, out: Path | None, heatmap: Path | None
) -> None:
    """Classify files by a model; print or write its predictions."""
    from evaluate.predict import (
        as_csv,
        check_out,
        find_row,
        listed,
        load_row,
        predict,
        write_answers,
    )

    workspace = loader.workspace
    workspace.require_folder()
    check_out(out)
    row = find_row(workspace, model)
    model_id, saved = load_row(workspace, row)
    info = saved.info
    paths, remarks = listed(given)
    for remark in remarks:
        warn(remark)
    say(_told(row, saved), err=True)
    spec, remarks = loader.spec(info), list[str]()
    with bar("Embedding", "rows") as progress:
        found, notes = predict(paths, saved, spec, workspace, progress, remarks.append)
    for remark in (*notes, *remarks):
        warn(remark)
    for each in found:
        if each.error:
            warn(f"{each.path}: {each.error}")
    if out:
        write_answers(out, found, info, model_id)
        say(f"Written: {out}", err=True)
    else:
        say(*as_csv(found, info.classes, printable).splitlines())
    answered = [each for each in found if not each.error]
    if not answered:
        raise UnreadableImageError(f"none of the {len(found)} files is an image that can be read")
    told = f"{len(answered)} image(s) classified"
    if answered[0].doubt is not None:
        doubted = sum(bool(each.doubt) for each in answered)
        told += f", {doubted} flagged for review"
    say(told, err=True)
    if answered[0].doubt is None and not remarks:
        why = (
            "it was not trained on cached embeddings"
            if info.network
            else "they were never fitted. Run `cli.py evaluate`: it fits those of its best model"
        )
        warn(f"No review flags for model {model_id}: {why}.")
    if heatmap:
        from evaluate.explanation.heatmaps import write_heatmaps

        with bar("Activation maps", "images") as progress:
            images = [Path(each.path) for each in answered]
            count = write_heatmaps(images, saved, spec, heatmap, progress)
        say(f"{count} activation map(s) in {heatmap}", err=True)


def export(model: str, file_format: str, out: Path, loader: ModelLoader, files: ImageFiles) -> None:
    """Write a model as one file, and say how near it answers to the model put together here.

    Args:
        files: Finds the test images.
    """
    from evaluate.export.model_file import export_model
    from evaluate.export.whole_model import MeasuredModel
    from evaluate.leaderboard import studies
    from evaluate.predict import find_row, load_row
    from evaluate.report.context import read_answers

    workspace = loader.workspace
    workspace.require_folder()
    found = find_row(workspace, model)
    model_id, saved = load_row(workspace, found)
    say(_told(found, saved))
    rows = [row for study in studies(workspace.results) for row in study.rows]
    row = next(row for row in rows if row["model_id"] == int(model_id))
    info = saved.info
    answers = read_answers(row, workspace)
    if answers is None:
        raise HeadError(
            f"model {model_id} has no predictions in {workspace.heads}: run evaluate again"
        )
    backbone = loader.backbone(info.identity, info.weights)
    written = export_model(MeasuredModel(backbone, saved, row, answers), file_format, out, files)
    say("Written: " + ", ".join(map(str, written.files)))
    say(
        f"Export verified: outputs match on {written.check.images} test images (largest "
        f"difference {written.check.difference:.1g})"
    )


def _told(row: Mapping[str, str], saved: TrainedHead) -> str:
    """Say which model of which study is used."""
    info = saved.info
    return (
        f"Model {row['model_id']}: {info.identity.backbone} on {info.identity.device}, "
        f"{info.configuration.head} head, {info.configuration.optimizer}; trained on "
        f"{row['dataset']} ({', '.join(info.classes)}), tested on {row['test']}"
    )
