"""The console in a terminal: sites and links, workers and the last requests, live."""

import asyncio
from typing import ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import DataTable, Static

from prfaas.console.changes import FollowedState
from prfaas.console.client import ConsoleClient, ConsoleError, RefusedError
from prfaas.console.rows import (
    REQUEST_COLUMNS,
    SITE_COLUMNS,
    WORKER_COLUMNS,
    Row,
    request_rows,
    site_rows,
    summary,
    waterfall,
    worker_rows,
)
from prfaas.console.words import plain

RETRY_S = 2.0
LIVE = "live   Tab: next table   Enter: a request's waterfall   q: quit"


class Top(App[str]):
    """Runs until `q`, or until the gateway refuses it: its result is the reason then."""

    CSS = """
    #summary { padding: 0 1; height: 2; }
    #status { padding: 0 1; height: 1; color: $text-muted; }
    DataTable { height: auto; max-height: 14; margin: 0 0 1 0; border: round $panel; border-title-color: $text-muted; }
    DataTable:focus { border: round $accent; }
    DataTable:blur > .datatable--cursor { background: transparent; color: $foreground; text-style: none; }
    #requests { height: 1fr; max-height: 100%; margin: 0; }
    """
    TITLE = "prfaas top"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [Binding("q", "quit", "Quit")]

    def __init__(self, client: ConsoleClient) -> None:
        super().__init__()
        self._client = client

    def compose(self) -> ComposeResult:
        yield Static("Nothing has been told yet.", id="summary", markup=False)
        yield Static("connecting", id="status", markup=False)
        for name, title in (("sites", "Sites and links"), ("workers", "Workers"), ("requests", "Last requests")):
            table: DataTable[Text] = DataTable(id=name, cursor_type="row", zebra_stripes=False)
            table.border_title = title
            yield table

    def on_mount(self) -> None:
        for name, columns in (("sites", SITE_COLUMNS), ("workers", WORKER_COLUMNS), ("requests", REQUEST_COLUMNS)):
            self._table(name).add_columns(*columns)
        self._table("requests").focus()
        self.run_worker(self._follow(), exclusive=True)

    async def _follow(self) -> None:
        while True:
            reason = "the stream has ended"
            try:
                async for state in self._client.follow():
                    self._say(LIVE)
                    self._show(state)
            except RefusedError as error:
                self.exit(str(error))
                return
            except ConsoleError as error:
                reason = str(error)
            self._say(f"{reason}; trying again")
            await asyncio.sleep(RETRY_S)

    def _show(self, state: FollowedState) -> None:
        self.query_one("#summary", Static).update(summary(state))
        fill(self._table("sites"), site_rows(state))
        fill(self._table("workers"), worker_rows(state))
        fill(self._table("requests"), request_rows(state))

    def _say(self, text: str) -> None:
        self.query_one("#status", Static).update(plain(text))

    def _table(self, name: str) -> DataTable[Text]:
        table: DataTable[Text] = self.screen_stack[0].query_one(f"#{name}", DataTable)
        return table

    async def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Opens the waterfall of the request in the row."""
        if event.data_table.id != "requests" or event.row_key.value is None:
            return
        try:
            detail = await self._client.detail(event.row_key.value)
        except ConsoleError as error:
            self._say(str(error))
            return
        self.push_screen(Waterfall(waterfall(detail, min(150, self.size.width - 8))))


class Waterfall(ModalScreen[None]):
    """One request's way."""

    CSS = """
    Waterfall { align: center middle; }
    #way { width: auto; max-width: 96%; height: auto; max-height: 90%; padding: 1 2; border: round $accent; }
    #way Static { width: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,enter", "dismiss", "Back")]

    def __init__(self, shown: Text) -> None:
        super().__init__()
        self._shown = shown

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="way") as way:
            way.border_title = "Waterfall"
            way.border_subtitle = "Escape: back"
            yield Static(self._shown)


def fill(table: DataTable[Text], rows: dict[str, Row]) -> None:
    """Brings a table in line with `rows`, whose order it has too. The cursor stays on its row as long as that is there."""
    keys = [str(key.value) for key in table.rows]
    if keys == list(rows):
        for key, row in rows.items():
            if table.get_row(key) != list(row):
                for column, cell in zip(table.ordered_columns, row, strict=True):
                    table.update_cell(key, column.key, cell, update_width=True)
        return
    # A cursor on the first row follows what is new.
    at = keys[table.cursor_row] if 0 < table.cursor_row < len(keys) else None
    table.clear()
    for key, row in rows.items():
        table.add_row(*row, key=key)
    if at in rows:
        table.move_cursor(row=list(rows).index(at), scroll=True)
