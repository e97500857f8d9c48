"""The report in a real browser: by mouse, by keys, on a phone, on paper, without its script."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from cache.store import Cache
from evaluate.report.page import write_report
from tests.reported import reported

pytestmark = pytest.mark.browser

DESK, PHONE = 1280, 390  # pixels across
BLANK = "\N{EN DASH}"
Open = Callable[..., Page]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, caches: dict[str, Cache], gel: Path) -> Path:
    place = reported(tmp_path_factory.mktemp("browsed"), caches.values())
    return write_report(place, gel / "published_results.csv")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        assert not os.environ.get("CI"), "CI must have Debian's chromium"
        pytest.skip("there is no chromium on the PATH")
    with sync_playwright() as playwright:
        # No sandbox: as root, in a container, Chromium would not start with it.
        launched = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def opened(report: Path, browser: Browser) -> Iterator[Open]:
    """Open the report; afterwards, nothing must have been complained of or asked for."""
    told, asked, contexts = list[str](), list[str](), []

    def open_page(width: int = DESK, script: bool = True) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": 844}, java_script_enabled=script
        )
        contexts.append(context)
        context.set_offline(True)
        context.set_default_timeout(10_000)
        page = context.new_page()
        page.on("console", lambda message: told.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(report.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert told == []
    assert [url for url in asked if not url.startswith("data:")] == [report.as_uri()] * len(
        contexts
    )


def column(page: Page, number: int) -> list[str]:
    """Return the texts of a column of the table of models that are shown."""
    cells = page.locator(f"table.models tbody tr:not([hidden]) td:nth-child({number})")
    return [text.strip() for text in cells.all_inner_texts()]


@pytest.mark.parametrize("width", [DESK, PHONE, 320])
def test_nothing_is_wider_than_the_screen(width: int, opened: Open) -> None:
    page = opened(width)
    sizes = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    scrolled, shown = page.evaluate(sizes)
    assert scrolled <= shown == width
    page.evaluate("document.querySelectorAll('details').forEach((each) => (each.open = true))")
    scrolled, shown = page.evaluate(sizes)
    assert scrolled <= shown
    if folder := os.environ.get("FROSTLINE_SCREENSHOTS"):
        page.evaluate("document.querySelectorAll('details').forEach((each) => (each.open = false))")
        page.screenshot(path=Path(folder) / f"report-{width}.png", full_page=True)


@pytest.mark.parametrize("width", [DESK, PHONE])
def test_the_first_screen_says_which_how_good_and_how_sure(width: int, opened: Open) -> None:
    page = opened(width)
    for selector in (".hero h2", ".score b", ".sure p"):
        box = page.locator(selector).first.bounding_box()
        assert box is not None
        assert box["y"] + box["height"] < 844, selector
    assert "95% interval" in page.locator(".sure p").first.inner_text()


def test_every_picture_is_one(opened: Open) -> None:
    page = opened()
    widths = page.evaluate("[...document.images].map((image) => image.naturalWidth)")
    assert len(widths) > 30
    assert all(widths)


def test_headers_sort_by_click_and_by_key(opened: Open) -> None:
    page = opened()
    ranks = column(page, 1)
    assert ranks == [str(i) for i in range(1, len(ranks) + 1)]
    header = page.locator("table.models th", has_text="rank")
    header.get_by_role("button").click()
    assert header.get_attribute("aria-sort") == "ascending"
    header.get_by_role("button").click()
    assert header.get_attribute("aria-sort") == "descending"
    assert column(page, 1) == ranks[::-1]
    other = page.locator("table.models th", has_text="test")
    other.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert other.get_attribute("aria-sort") == "ascending"
    assert header.get_attribute("aria-sort") is None
    scores = [float(text.rstrip("%")) for text in column(page, 8)]
    assert scores == sorted(scores)


def test_numbers_sort_as_numbers_and_blanks_come_last(opened: Open) -> None:
    page = opened()
    header = page.locator("table.models th", has_text="latency").get_by_role("button")
    for ascending in (True, False):
        header.click()
        texts = column(page, 10)
        assert texts != sorted(texts, reverse=not ascending)  # 7.10 would come after 55.1
        assert texts[-2:] == [BLANK, BLANK]
        numbers = [float(text) for text in texts[:-2]]
        assert numbers == sorted(numbers, reverse=not ascending)


def test_models_are_filtered_by_words_and_by_chips(opened: Open) -> None:
    page = opened()
    everything = len(column(page, 1))
    count = page.locator(".filters .count")
    assert count.inner_text() == f"{everything} of {everything} models"
    page.get_by_label("Filter models").fill("multi XLA")
    assert set(column(page, 5)) == {"multi"}
    assert set(column(page, 4)) == {"xla-cpu"}
    page.get_by_label("Filter models").fill("")
    chip = page.get_by_role("button", name="knn")
    chip.click()
    assert chip.get_attribute("aria-pressed") == "true"
    assert set(column(page, 5)) == {"knn"}
    page.get_by_role("button", name="single").click()
    assert set(column(page, 5)) == {"knn", "single"}
    page.get_by_role("button", name="cpu", exact=True).click()
    assert set(column(page, 4)) == {"cpu"}
    assert count.inner_text() == f"{len(column(page, 1))} of {everything} models"
    chip.click()
    assert set(column(page, 5)) == {"single"}


def test_a_mark_shows_its_picture_and_words(opened: Open) -> None:
    page = opened()
    crop = page.locator(".map .crop")
    assert not crop.is_visible()
    mark = page.locator(".panel:not([hidden]) use.wrong").first
    mark.hover()
    assert crop.is_visible()
    words = page.locator(".map .words").inner_text()
    assert words == mark.locator("title").text_content()
    assert "predicted" in words
    shown = page.evaluate(
        """() => { const [crop, image] = [".crop", ".crop img"].map((s) =>
        document.querySelector(s).getBoundingClientRect());
        return crop.left >= image.left - 1 && crop.right <= image.right + 1
        && crop.top >= image.top - 1 && crop.bottom <= image.bottom + 1; }"""
    )
    assert shown  # of the sheet, not of what lies beside it


def test_the_map_is_walked_by_keys_mistakes_first(opened: Open) -> None:
    page = opened()
    words = page.locator(".map .words")
    page.locator(".panel:not([hidden]) svg").focus()
    page.keyboard.press("ArrowRight")
    first = words.inner_text()
    assert page.locator(".panel:not([hidden]) use.at.wrong").count() == 1
    page.keyboard.press("ArrowRight")
    assert words.inner_text() != first
    page.keyboard.press("ArrowLeft")
    assert words.inner_text() == first


def test_tabs_switch_the_map(opened: Open) -> None:
    page = opened()
    panels = {name: page.locator(f".panel[data-name={name}]") for name in ("t-SNE", "PCA")}
    assert [panel.is_visible() for panel in panels.values()] == [True, False]
    page.get_by_role("tab", name="PCA").click()
    assert [panel.is_visible() for panel in panels.values()] == [False, True]
    page.keyboard.press("ArrowLeft")
    assert [panel.is_visible() for panel in panels.values()] == [True, False]
    assert page.get_by_role("tab", name="t-SNE").get_attribute("aria-selected") == "true"


def test_without_its_script_everything_can_be_read(opened: Open) -> None:
    page = opened(script=False)
    assert page.locator("table.models tbody tr").count() == 16
    assert page.locator("table.models tbody tr").first.is_visible()
    assert not page.locator(".filters").is_visible()
    assert not page.locator(".tabs").is_visible()
    for panel in page.locator(".panel").all():
        assert panel.is_visible()


def test_it_prints(opened: Open, tmp_path: Path) -> None:
    page = opened()
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    assert not page.locator(".filters").is_visible()
    assert all(panel.is_visible() for panel in page.locator(".panel").all())
    data = page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert data.startswith(b"%PDF-")
    assert len(data) > 100_000
