"""Shared by the benchmarks: a description of the machine, and tables that are printed as they grow."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

import fcam_zoo


def machine(threads: int, device: str = 'CPU') -> str:
    """Describe versions and machine, without names or paths."""
    versions = f'fcam_zoo {fcam_zoo.__version__}, torch {torch.__version__}'
    return f'{versions}; {platform.machine()} {device.upper()}, {threads} thread(s)'


class Table:
    """A Markdown table, printed line by line and appended to a file at the end."""

    def __init__(self, *head: str) -> None:
        self.lines = list(head)
        print('\n'.join(head), flush=True)

    def add(self, row: str) -> None:
        """Print a row."""
        self.lines.append(row)
        print(row, flush=True)

    def append_to(self, path: Path | None) -> None:
        """Append the table to a file, unless it is None."""
        if path:
            with path.open('a', encoding='utf-8') as f:
                f.write('\n'.join(self.lines) + '\n\n')
