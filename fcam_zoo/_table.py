"""Text tables, whose columns are as wide as their widest cell."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ._io import printable


def text_table(rows: Sequence[Sequence[str]], numbers: Collection[int] = ()) -> str:
    """Format rows of cells, the first of which is the header, with two spaces between the columns.

    Args:
        rows: Rows of equal length.
        numbers: Indices of the columns that are aligned on the right.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells)]
    aligned = (
        [cell.rjust(w) if i in numbers else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths))]
        for row in cells
    )
    return '\n'.join('  '.join(row).rstrip() for row in aligned)
