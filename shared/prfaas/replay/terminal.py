"""The terminal of a long run: a reader that goes away must not end the run."""

import os
import sys

from rich.console import Console


class Terminal(Console):
    """Prints plain sentences: names in them may hold what rich takes for markup."""

    def __init__(self) -> None:
        super().__init__(soft_wrap=True, markup=False, highlight=False)

    def on_broken_pipe(self) -> None:
        """Goes on in silence, as `prfaas replay ... | head` asks: what was measured is still written."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
