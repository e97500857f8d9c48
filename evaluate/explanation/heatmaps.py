"""Activation maps of new images, as pictures to look at."""

from collections.abc import Sequence
from pathlib import Path

from PIL.PngImagePlugin import PngInfo

from cache.files import check_replaceable, replacing
from cache.progress import Progress, silent
from evaluate.explanation.gradcam import activation_maps, overlay
from extract.devices import usable_cores
from extract.embedding_spec import EmbeddingSpec
from extract.loader import decode_files, make_batches
from heads.store import TrainedHead

AT_ONCE = 16
MARK = "Frostline"  # says in the file who wrote it


def write_heatmaps(
    paths: Sequence[Path],
    saved: TrainedHead,
    spec: EmbeddingSpec,
    folder: Path,
    progress: Progress = silent,
) -> int:
    """Write for each image what contributed to the prediction, in colour, as `0001-NAME.png`.

    The number is the image's place, as several may bear one name. Returns how many were written.

    Raises:
        HeadError: the head has no gradient.
        ResultsError: a file that was not written here would be overwritten.
        OSError: the folder can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    targets = {path: folder / f"{n:04}-{path.stem}.png" for n, path in enumerate(paths, start=1)}
    for target_file in targets.values():
        check_replaceable(target_file, MARK.encode(), what="--heatmap")
    head, note, done = saved.module(), PngInfo(), 0
    note.add_text("Software", MARK)
    images = decode_files(paths, usable_cores(), 2 * AT_ONCE, spec.preprocessing)
    for batch in make_batches(images, AT_ONCE):
        maps = activation_maps(spec.backbone, head, batch.pixels)
        for path, pixels, heat in zip(batch.paths, batch.pixels, maps, strict=True):
            with replacing(targets[path]) as temporary:
                overlay(pixels[0], heat).save(temporary, "PNG", pnginfo=note)
        done += len(batch.paths)
        progress(done, len(paths))
    return done
