"""Every place in the code that a page gives exists, and every link leads somewhere."""

import re

from tests.docs.pages import files_named, names_in, pages, places, slug, titles
from tests.source_tree import ROOT


def test_every_place_that_a_page_names_exists() -> None:
    wrong = []
    found = list(places())
    for page, file, name in found:
        paths = files_named(file)
        if len(paths) != 1:
            wrong.append(f"{page.name}: {file} is {'no file' if not paths else 'several files'}")
        elif name not in names_in(paths[0]):
            wrong.append(f"{page.name}: {file} has no {name}")
    assert len(found) > 50
    assert wrong == [], "\n".join(wrong)


def test_every_link_between_pages_leads_to_a_page_and_a_heading() -> None:
    wrong = []
    for page in pages():
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            file, _, anchor = target.partition("#")
            other = (page.parent / file) if file else page
            if "://" in target:
                continue
            if not other.exists():
                wrong.append(f"{page.relative_to(ROOT)} links to {target}")
            elif anchor and anchor not in map(slug, titles(other)):
                wrong.append(f"{page.relative_to(ROOT)}: {other.name} has no heading {anchor}")
    assert wrong == [], "\n".join(wrong)
