"""Pages: escaped, self-contained, written whole."""

from html.parser import HTMLParser
from pathlib import Path

import jinja2
import pytest

from megl_core import __version__, html


class Page(HTMLParser):
    """Collects what a page loads, its elements, and its text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.text += " "

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def addresses(self) -> list[str]:
        """What the page loads or links to, other than data URIs and its own anchors."""
        values = [attributes.get(key) for _, attributes in self.elements for key in ("src", "href")]
        return [value for value in values if value and not value.startswith(("data:", "#"))]


def test_the_base_page_needs_nothing_from_elsewhere() -> None:
    source = html.render("base.html")
    page = Page(source)

    assert page.addresses == []
    assert page.all("script") == []
    assert "url(" not in source
    assert "@import" not in source
    assert source.startswith("<!doctype html>")
    assert page.all("html") == [{"lang": "en"}]
    assert f"Made by MEGL {__version__}" in page.text


def test_the_base_page_serves_dark_screens_and_paper() -> None:
    source = html.render("base.html")
    assert "prefers-color-scheme: dark" in source
    assert "@media print" in source


def luminance(colour: str) -> float:
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_stands_out_from_its_ground(scheme: int) -> None:
    block = html.render("base.html").split(":root {")[scheme + 1].split("}")[0]
    colours = dict(item.strip().split(": ") for item in block.strip().split(";") if item.strip())
    pairs = [("--ink", "--paper"), ("--ink", "--card"), ("--soft", "--card"), ("--accent", "--card")]
    pairs += [(f"--{status}", f"--{status}-bg") for status in ("pass", "warn", "fail", "skip")]

    for text, ground in pairs:
        assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)


def test_contrast_by_hand() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#ffffff", "#ffffff") == pytest.approx(1.0)


def test_an_unknown_template_is_an_error() -> None:
    with pytest.raises(jinja2.TemplateNotFound):
        html.render("../html.py")


def test_a_name_that_the_context_lacks_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError):
        html.render("validation.html")


def test_data_uri() -> None:
    uri = html.data_uri(b"\x00\xff<", "image/png")
    assert uri == "data:image/png;base64,AP88"
    assert uri.__html__() == uri


@pytest.mark.parametrize("media_type", ["", "png", 'image/png"onerror="x', "image/png;x"])
def test_data_uri_takes_only_media_types(media_type: str) -> None:
    with pytest.raises(ValueError, match="not a media type"):
        html.data_uri(b"", media_type)


def test_write_html_leaves_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "reports" / "page.html"
    html.write_html(path, "old")
    html.write_html(path, "größer")

    assert path.read_bytes() == "größer".encode()
    assert list(path.parent.iterdir()) == [path]


def test_percent() -> None:
    assert html.percent(0.125) == "12.5%"
    assert html.percent(1.0, digits=0) == "100%"
