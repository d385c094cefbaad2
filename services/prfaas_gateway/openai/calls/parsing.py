"""Frame of the parsers: text in which a mark announces calls."""

from prfaas_gateway.openai.calls.pieces import Piece, held_back


class MarkedText:
    """Text up to the next mark. Blanks before a mark, and between calls, belong to neither."""

    def __init__(self, mark: str) -> None:
        self.mark = mark
        self._held = ""
        self._after_calls = False

    def push(self, text: str) -> tuple[list[Piece], str | None]:
        """Returns pieces, and the text after the mark once that has come, else None."""
        text = self._held + text
        before, found, after = text.partition(self.mark)
        if found:
            self._held, self._after_calls = "", True
            return self._out(before.rstrip()), after
        certain = len(text) - held_back(text, self.mark)
        certain = len(text[:certain].rstrip())
        self._held = text[certain:]
        return self._out(text[:certain]), None

    def flush(self) -> list[Piece]:
        text, self._held = self._held, ""
        return [] if self._after_calls and not text.strip() else self._out(text)

    def give_up(self, text: str) -> list[Piece]:
        """Returns a text that turned out to be no call."""
        return self._out(text)

    def _out(self, text: str) -> list[Piece]:
        return [text] if text else []
