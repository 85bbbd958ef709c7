"""Self-contained HTML pages: one file, no network, readable in light and dark and on paper.

Templates lie in `megl_core/templates` and extend `base.html`, which documents the blocks and CSS classes
they may use. Every value is escaped unless it is `Markup`.
"""

import base64
import functools
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from megl_core import __version__, files

_MEDIA_TYPE = re.compile(r"[a-z]+/[a-z0-9.+-]+")


def render(template: str, **context: Any) -> str:
    """The page that `template` (a file name in `megl_core/templates`) makes of `context`.

    Raises:
        jinja2.UndefinedError: the template asks for a name that `context` lacks.
        jinja2.TemplateNotFound: there is no such template.
    """
    return _environment().get_template(template).render(**context)


def data_uri(content: bytes, media_type: str) -> Markup:
    """`content` as a `data:` URI for a `src` attribute, for example with `media_type="image/png"`.

    Raises:
        ValueError: `media_type` is not of the form `type/subtype`.
    """
    if not _MEDIA_TYPE.fullmatch(media_type):
        raise ValueError(f"not a media type: {media_type!r}")
    encoded = base64.b64encode(content).decode("ascii")
    return Markup(f"data:{media_type};base64,{encoded}")  # noqa: S704  base64 holds no markup


def write_html(path: Path, html: str) -> None:
    """Write a page atomically: readers see the old page or the new one, never a part.

    Raises:
        MeglError: the file cannot be written.
    """
    files.write_text(path, html)


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("megl_core", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["version"] = __version__
    environment.filters["percent"] = percent
    return environment


def percent(share: float, digits: int = 1) -> str:
    """`12.5%` for 0.125; also a template filter."""
    return f"{100 * share:.{digits}f}%"
