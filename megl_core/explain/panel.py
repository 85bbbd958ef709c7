"""One picture that says it all: the image, where the model looked, what it saw and why."""

from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from megl_core.explain.drawing import fit, overlay

if TYPE_CHECKING:
    from megl_core.explain.explanation import Explained

_SIDE = 320
_MARGIN = 20
_GAP = 16
_CLASSES = 3
_PAPER, _INK, _SOFT, _TRACK, _BAR, _OTHER = "#ffffff", "#1d2430", "#586274", "#e9ecf1", "#c4396b", "#9aa5b8"

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def render_panel(explained: "Explained") -> Image.Image:
    """The picture beside its heat map, and below them the likeliest classes and the rationale."""
    width = 2 * _SIDE + _GAP + 2 * _MARGIN
    picture = fit(explained.image, _SIDE)
    sheet = Image.new("RGB", (width, picture.height + 1000), _PAPER)
    draw = ImageDraw.Draw(sheet)
    right = _MARGIN + _SIDE + _GAP
    for left, caption, cell in (
        (_MARGIN, "image", picture),
        (right, f"evidence for {explained.label}", overlay(picture, explained.heat_map)),
    ):
        draw.text((left, 12), _cut(caption, _font(15), _SIDE), fill=_SOFT, font=_font(15))
        sheet.paste(cell, (left, 36))
    bottom = _draw_classes(draw, explained, picture.height + 52, width)
    bottom = _draw_rationale(draw, explained.rationale, bottom, width)
    return sheet.crop((0, 0, width, bottom))


def _draw_classes(draw: ImageDraw.ImageDraw, explained: "Explained", top: int, width: int) -> int:
    """A bar for each of the likeliest classes, and for the explained one in any case; returns the bottom."""
    shown = dict(list(explained.probabilities.items())[:_CLASSES])
    shown.setdefault(explained.label, explained.probability)
    name_width, value_width = 170, 62
    left, right = _MARGIN + name_width, width - _MARGIN - value_width
    for label, probability in shown.items():
        is_explained = label == explained.label
        font = _font(17)
        ink = _INK if is_explained else _SOFT
        draw.text((_MARGIN, top), _cut(label, font, name_width - 10), fill=ink, font=font)
        draw.rounded_rectangle((left, top + 3, right, top + 17), radius=4, fill=_TRACK)
        filled = left + round((right - left) * probability)
        if filled > left + 8:
            colour = _BAR if is_explained else _OTHER
            draw.rounded_rectangle((left, top + 3, filled, top + 17), radius=4, fill=colour)
        draw.text((width - _MARGIN, top), f"{probability:.1%}", fill=ink, font=font, anchor="ra")
        top += 27
    return top + 4


def _draw_rationale(draw: ImageDraw.ImageDraw, rationale: str, top: int, width: int) -> int:
    """The sentence, wrapped; returns where the sheet ends."""
    font = _font(19)
    for line in _wrap(rationale, font, width - 2 * _MARGIN):
        top += 5
        draw.text((_MARGIN, top), line, fill=_INK, font=font)
        top += 22
    return top + 16


def _wrap(text: str, font: Font, width: int) -> list[str]:
    """Lines of at most `width` pixels, at most twelve; a word that is too long is cut."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if font.getlength(longer) <= width:
            line = longer
            continue
        lines += [line] if line else []
        line = _cut(word, font, width)
    lines += [line] if line else []
    return lines if len(lines) <= 12 else [*lines[:11], _cut(f"{lines[11]} ...", font, width)]


def _cut(text: str, font: Font, width: int) -> str:
    """The text, shortened with dots to fit into `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..."


def _font(size: int) -> Font:
    return ImageFont.load_default(size)
