"""A page of text, tables and pictures as one HTML file that needs no script, no other file and no address."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 62rem; padding: 0 1rem 3rem; }
h1 { font-size: 1.6rem; margin: 1.5rem 0 .25rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; border-top: 1px solid #8886; padding-top: 1rem; }
p, figcaption { max-width: 44rem; }
nav a { margin-right: .8rem; white-space: nowrap; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
caption { text-align: left; font-weight: 600; padding-bottom: .3rem; }
th, td { padding: .25rem .7rem .25rem 0; border-bottom: 1px solid #8884; text-align: right; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 1rem 0; }
figure img { width: 100%; height: auto; background: white; border-radius: 4px; }
figcaption { font-size: .85rem; opacity: .8; }
.row { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); }
.row figure { margin: 0; }
"""


@dataclass(frozen=True)
class Table:
    """Cells as text, with a name and a name for each column."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def html(self) -> str:
        """The table; it scrolls sideways where the screen is narrow."""
        head = "".join(f"<th>{escape(cell)}</th>" for cell in self.columns)
        body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in self.rows)
        caption = f"<caption>{escape(self.name)}</caption>"
        return f'<div class="scroll"><table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


@dataclass(frozen=True)
class Picture:
    """A PNG file and what it shows."""

    path: Path
    caption: str

    def html(self) -> str:
        """The picture itself, not a link to it."""
        data = base64.b64encode(self.path.read_bytes()).decode()
        caption = escape(self.caption)
        image = f'<img alt="{caption}" src="data:image/png;base64,{data}">'
        return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Args:
        name: its heading.
        text: paragraphs.
        tables, pictures: below it.
        small: whether pictures stand beside each other where the screen is wide.
    """

    name: str
    text: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
    small: bool = False

    @property
    def anchor(self) -> str:
        """For links within the page."""
        return "".join(letter if letter.isalnum() else "-" for letter in self.name.lower())

    def html(self) -> str:
        """Heading, paragraphs, tables, pictures."""
        text = "".join(f"<p>{escape(paragraph)}</p>" for paragraph in self.text)
        tables = "".join(table.html() for table in self.tables)
        pictures = "\n".join(picture.html() for picture in self.pictures)
        if self.small and pictures:
            pictures = f'<div class="row">{pictures}</div>'
        return f'<section id="{self.anchor}"><h2>{escape(self.name)}</h2>{text}{tables}{pictures}</section>'


def page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The whole page.

    Args:
        title, lead: heading and the paragraph below it.
        sections: in order.
    """
    links = "".join(f'<a href="#{section.anchor}">{escape(section.name)}</a> ' for section in sections)
    body = "\n".join(section.html() for section in sections)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><h1>{escape(title)}</h1><p>{escape(lead)}</p><nav>{links}</nav>\n{body}\n</body></html>\n"
    )
