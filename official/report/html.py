"""One HTML page that needs no other file and no network, readable on a phone: for studies and for single
runs.
"""

from __future__ import annotations

import base64
import html
import io
from typing import Sequence

import numpy as np
from PIL import Image

_STYLE = """
:root { --line: #ddd; --soft: #666; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 64rem; padding: 0 1rem; color: #1a1a1a; background: #fff; }
h1 { font-size: 1.6rem; line-height: 1.25; overflow-wrap: anywhere; } h2 { font-size: 1.25rem; margin-top: 2.4rem; } h3 { font-size: 1rem; margin-bottom: .3rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; margin: .6rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child, td.text { text-align: left; } td.text { white-space: normal; }
thead th { border-bottom: 2px solid #888; } .paper, .note { color: var(--soft); font-size: .88rem; }
figure { display: inline-block; margin: .5rem .5rem .5rem 0; max-width: 100%; vertical-align: top; } figure img { max-width: 100%; height: auto; }
.holds { color: #00603f; font-weight: 600; } .fails { color: #a23c00; font-weight: 600; }
.box { border-left: .4rem solid #888; background: #f5f5f5; padding: .6rem 1rem; margin: 1rem 0; } .box p { margin: .3rem 0; }
.box.good { border-color: #009e73; } .box.bad { border-color: #d55e00; } .box.open { border-color: #e69f00; }
.box .first { font-size: 1.15rem; font-weight: 600; }
pre { background: #f5f5f5; padding: .6rem .8rem; overflow-x: auto; font-size: .85rem; line-height: 1.4; white-space: pre-wrap; overflow-wrap: anywhere; }
.row { display: grid; gap: .4rem; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); margin: .2rem 0 1.2rem; }
.row figure { margin: 0; display: block; } .row img { width: 100%; display: block; background: #eee; }
figcaption { font-size: .82rem; color: var(--soft); overflow-wrap: anywhere; } summary { cursor: pointer; font-weight: 600; }
.legend span { display: inline-block; margin-right: .9rem; white-space: nowrap; } .legend i { display: inline-block; width: .8rem; height: .8rem; margin-right: .3rem; border: 1px solid #0003; }
"""


def escape(text: str) -> str:
    """Text as it may stand in the page, also within quotes."""
    return html.escape(str(text), quote=True)


class Page:
    """Collects the parts of a page."""

    def __init__(self, title: str) -> None:
        """Args: title: also the first heading."""
        self.title, self.out = title, io.StringIO()
        self.raw(f"<h1>{escape(title)}</h1>")

    def raw(self, markup: str) -> None:
        """HTML as it is."""
        self.out.write(markup)

    def heading(self, text: str, level: int = 2) -> None:
        """A heading."""
        self.raw(f"<h{level}>{escape(text)}</h{level}>")

    def text(self, text: str, kind: str = "") -> None:
        """A paragraph; `kind` is a class of the style."""
        self.raw(f"<p{_kind(kind)}>{escape(text)}</p>")

    def box(self, lines: Sequence[str], kind: str = "") -> None:
        """Lines that stand out, the first of them most; `kind`: good, bad or open."""
        rest = "".join(f"<p>{escape(line)}</p>" for line in lines[1:])
        self.raw(f"<div{_kind(f'box {kind}'.strip())}><p class='first'>{escape(lines[0])}</p>{rest}</div>")

    def bullets(self, lines: Sequence[str], kind: str = "") -> None:
        """A list, nothing of an empty one."""
        if not lines:
            return
        self.raw(f"<ul{_kind(kind)}>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>")

    def code(self, text: str) -> None:
        """Commands or other lines to copy."""
        self.raw(f"<pre>{escape(text)}</pre>")

    def table(
        self,
        head: Sequence[str],
        rows: Sequence[Sequence[str]],
        kinds: dict[tuple[int, int], str] | None = None,
    ) -> None:
        """A table; `kinds` gives cells (row, column) a class of the style."""
        kinds = kinds or {}
        self.raw(
            "<div class='wide'><table><thead><tr>"
            + "".join(f"<th>{escape(cell)}</th>" for cell in head)
            + "</tr></thead><tbody>"
        )
        for r, row in enumerate(rows):
            cells = "".join(
                f"<td{_kind(kinds.get((r, c), ''))}>{escape(cell)}</td>" for c, cell in enumerate(row)
            )
            self.raw(f"<tr>{cells}</tr>")
        self.raw("</tbody></table></div>")

    def svg(self, image: bytes, alternative: str) -> None:
        """A drawing."""
        self.raw(f"<figure><img alt='{escape(alternative)}' src='{_data(image, 'svg+xml')}'></figure>")

    def drawings(self, drawings: Sequence[tuple[np.ndarray, str]], most: int = 420) -> None:
        """Drawings uint8 [H, W, 3] beside each other, with captions; larger ones are shrunk."""
        self.raw(f"<div class='row' style='max-width:{15.5 * len(drawings):g}rem'>")
        for drawing, caption in drawings:
            source = _data(jpeg(drawing, most), "jpeg")
            self.raw(
                f"<figure><img loading='lazy' alt='{escape(caption)}' "
                f"src='{source}'><figcaption>{escape(caption)}</figcaption></figure>"
            )
        self.raw("</div>")

    def legend(self, colors: Sequence[tuple[str, tuple[int, int, int]]]) -> None:
        """Names beside their colours."""
        self.raw("<p class='legend'>")
        for name, (red, green, blue) in colors:
            self.raw(f"<span><i style='background:rgb({red},{green},{blue})'></i>{escape(name)}</span>")
        self.raw("</p>")

    def folded(self, summary: str) -> Folded:
        """A context whose parts are shown when somebody opens them."""
        return Folded(self, summary)

    def html(self) -> str:
        """The whole page."""
        return (
            f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{escape(self.title)}</title>"
            f"<meta name='viewport' content='width=device-width, "
            f"initial-scale=1'><style>{_STYLE}</style></head>"
            f"<body>{self.out.getvalue()}</body></html>\n"
        )


class Folded:
    """See `Page.folded`."""

    def __init__(self, page: Page, summary: str) -> None:
        """Args: summary: the line that is always shown."""
        self.page, self.summary = page, summary

    def __enter__(self) -> None:
        self.page.raw(f"<details><summary>{escape(self.summary)}</summary>")

    def __exit__(self, *_: object) -> None:
        self.page.raw("</details>")


def jpeg(drawing: np.ndarray, most: int) -> bytes:
    """An image uint8 [H, W, 3] as JPEG, its longer side at most so many pixels."""
    image, out = Image.fromarray(np.asarray(drawing)), io.BytesIO()
    image.thumbnail((most, most))
    image.save(out, format="JPEG", quality=82)
    return out.getvalue()


def _kind(kind: str) -> str:
    return f" class='{escape(kind)}'" if kind else ""


def _data(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
