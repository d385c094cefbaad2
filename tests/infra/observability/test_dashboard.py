from infra.observability import dashboard


def test_the_file_is_what_the_table_makes() -> None:
    assert dashboard.PATH.read_text() == dashboard.rendered(), "run `python -m infra.observability.dashboard`"


def test_panels_lie_beside_one_another_within_the_grid() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard.dashboard()["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, f"panel {panel['title']!r} lies over another one"
        taken |= cells
