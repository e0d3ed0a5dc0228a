"""The parser of every command: it accepts options before, between and after words."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any


class CommandParser(argparse.ArgumentParser):
    """Parses the arguments of one command, or of a group of commands.

    `ArgumentParser` distributes the words that precede an option before it has seen those that
    follow. So in `corpus query INDEX -k 2 TEXT`, where TEXT may be left out, it takes TEXT as left
    out and then refuses the word. This parser reads all options first.
    """

    _reads_options_first = True

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """See `ArgumentParser.parse_known_args`."""
        # A group of commands passes everything behind the command's name on to the command.
        if self._subparsers is not None or not self._reads_options_first:
            return super().parse_known_args(args, namespace)
        self._reads_options_first = False  # `parse_known_intermixed_args` calls this method
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._reads_options_first = True
