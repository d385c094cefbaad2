"""Pictures of the documentation: small, and whole without a network."""

import re

from load.screenshots.__main__ import without_fonts
from tests.source_tree import ROOT

PICTURES = ROOT / "docs" / "screenshots"
MOST_BYTES = 1_500_000


def test_they_are_small_together() -> None:
    sizes = [picture.stat().st_size for picture in PICTURES.iterdir()]
    assert len(sizes) == 5 and sum(sizes) < MOST_BYTES


def test_they_fetch_nothing_from_elsewhere() -> None:
    svg = (PICTURES / "top.svg").read_text()
    assert "@font-face" not in svg and re.findall(r"(?:url\(|href=)[\"']?https?:", svg) == []


def test_fonts_are_taken_out_and_all_else_stays() -> None:
    svg = "<style>\n@font-face {\n src: url(x)\n}\n.a { fill: red }\n</style><text>}</text>"
    assert without_fonts(svg) == "<style>\n.a { fill: red }\n</style><text>}</text>"
