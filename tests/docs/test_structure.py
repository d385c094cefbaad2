"""docs/structure.md names every file of the tree, draws its rooms as they are, and answers a newcomer's questions."""

import re
from collections import Counter

from tests.docs.pages import STRUCTURE, files_named, rows, section, slug, titles
from tests.docs.structure_page import gone_files, missing_rows, named_files, rewritten
from tests.test_architecture import FLOORS

QUESTIONS = 20
LINK = re.compile(r"\]\(([^)#]+)#([^)]+)\)")
PATH = re.compile(r"`(?:[\w-]+/)+[\w.-]*(?::[\w.]+)?`")


def test_every_source_file_has_a_row() -> None:
    assert missing_rows() == {}, "python -m tests.docs.structure_page --write adds drafts"


def test_every_row_names_a_file_that_exists_and_no_file_twice() -> None:
    assert gone_files() == []
    assert [name for name, count in Counter(named_files()).items() if count > 1] == []


def test_a_draft_row_comes_into_its_folder_and_a_gone_one_goes() -> None:
    page = "### `load/`\n\n| file | what |\n|---|---|\n| `b.py` | b |\n| `d.py` | d |\n\n### `infra/`\n"
    new = rewritten(page, {"load/a.py": "first", "load/c.py": "middle", "load/e/f.py": "last"}, ["load/b.py"])
    rows_left = [line for line in new.splitlines() if line.startswith("| `")]
    assert rows_left == ["| `a.py` | first |", "| `c.py` | middle |", "| `d.py` | d |", "| `e/f.py` | last |"]
    assert rewritten(STRUCTURE.read_text(), {}, []) == STRUCTURE.read_text()
    new = rewritten(STRUCTURE.read_text(), {"shared/prfaas/new/a.py": "a new room"}, [])
    assert "### `shared/prfaas/new/`\n\n| file | what |\n|---|---|\n| `a.py` | a new room |\n\nBeside" in new


def test_rows_fit_a_screen() -> None:
    assert [line for line in STRUCTURE.read_text().splitlines() if len(line) > 120] == []


def test_the_picture_shows_the_floors_as_the_imports_have_them() -> None:
    lines = section(STRUCTURE, "The rooms").split("```")[1].splitlines()
    short = {room: room.rpartition(".")[2].removeprefix("prfaas_") for floor in FLOORS for room in floor}
    at = -1
    for floor in reversed(FLOORS[1:]):
        wanted = {short[room] for room in floor}
        at += 1
        while at < len(lines) and not wanted & set(lines[at].replace("|", " ").replace(":", " ").split()):
            at += 1
        words = " ".join(lines[at : at + 2])
        assert all(name in words for name in wanted), f"{floor} is not on a floor of its own in the picture"


def test_a_newcomers_questions_lead_to_a_file_in_two_steps_and_faults_in_three() -> None:
    """Steps: the row of this page; the file that it names, or the section that it links to; the file that the section names."""
    answers = rows(section(STRUCTURE, "Where do I find"))
    assert len(answers) >= QUESTIONS
    for question, answer in answers:
        links = LINK.findall(answer)
        files = [part.partition(":")[0] for part in answer.split("`")[1::2] if "/" in part or part.endswith(".py")]
        assert links or files, question
        assert [file for file in files if not file.endswith("/") and not files_named(file)] == [], question
        for page, anchor in links:
            headings = {slug(title): title for title in titles(STRUCTURE.parent / page)}
            assert anchor in headings, f"{question}: {page} has no heading {anchor}"
            assert PATH.search(section(STRUCTURE.parent / page, headings[anchor])) or files, f"{question}: {anchor} names no file"
