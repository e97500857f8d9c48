"""What an audit found, as a page: pictures side by side, names escaped."""

import re
from hashlib import sha256
from pathlib import Path

from PIL import Image

from evaluate.audit.audit import audit
from evaluate.audit.findings import Audit, DuplicatePair, Outlier, Seen
from evaluate.report.page import write_audit_page
from evaluate.workspace.image_files import ImageFiles
from evaluate.workspace.layout import Workspace
from extract.dataset import scan
from tests.conftest import ROOT
from tests.reported import EVIL


def test_an_audit_is_a_page_of_its_own(tmp_path: Path) -> None:
    training, testing = scan(ROOT / "dataset"), scan(ROOT / "test_images")
    found = audit(training, testing, Workspace(tmp_path))
    page = write_audit_page(found, tmp_path / "new" / "audit.html", ImageFiles())
    html = page.read_text()
    assert f"Audit of {training.name} and {testing.name}" in html
    assert "test images that are in training too" in html
    assert '<span class="rate" style="--w:100.0%">46</span>' in html
    assert not re.search(r"https?://|src=\"(?!data:)", html)
    assert str(ROOT) not in html
    first = page.read_bytes()
    assert write_audit_page(found, page, ImageFiles()).read_bytes() == first


def test_what_an_audit_found_is_shown_in_pictures(tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.png" for name in ("a", "<b>", "c", "d")]
    for number, path in enumerate(paths):
        Image.new("L", (8, 8), 60 * number).save(path)
    keys = [sha256(path.read_bytes()).hexdigest() for path in paths]
    images = (
        Seen(str(paths[0]), keys[0], "gel", "training", 0),
        Seen(str(paths[1]), keys[1], EVIL, "training", 0),
        Seen(str(paths[2]), keys[2], "gel", "test"),
        Seen(str(paths[3]), keys[3], "gel", "training"),
    )
    found = Audit(
        dataset="d",
        test="t",
        cache=None,
        images=images,
        alike=(DuplicatePair(0, 1, 0.987, 3, False), DuplicatePair(2, 3, None, 0, True)),
        unreadable=(("x/broken.png", "the file is empty"),),
        odd=(Outlier(3, "blank", "gray levels differ by 0.0 only"),),
    )
    html = write_audit_page(found, tmp_path / "audit.html", ImageFiles()).read_text()
    for words in (
        "In training and in test: left out of every score",
        "Alike, in different classes",
        "cosine 0.987, hashes differ in 3 of 63 bits",
        "the same bytes",
        "next to no contrast: gray levels differ by 0.0 only",
        "<td>broken.png</td>",
        "&lt;b&gt;.png",
    ):
        assert words in html, words
    assert EVIL not in html
    assert html.count("data:image/webp") == 7  # a leak, a conflict, a group, and an odd one
    paths[0].unlink()
    gone = write_audit_page(found, tmp_path / "audit.html", ImageFiles()).read_text()
    assert gone.count("moved or changed since") == 2
