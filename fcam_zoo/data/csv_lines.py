"""Lines of a CSV file."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from .._io import csv_text
from .values import Problem, read_text


def read_csv(path: Path, fix: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Read a CSV file: the header (empty without lines), and number and fields of each further line with content.

    Spaces around fields are removed; an apostrophe before a formula character is not part of a field (see `CsvWriter`).

    Raises:
        Problem: If the file cannot be read, with `fix`, or is not CSV.
    """
    text = read_text(path, fix)
    reader = csv.reader(io.StringIO(text, newline=None))
    try:
        filled = ((reader.line_num, fields) for fields in reader if ''.join(fields).strip())
        lines = [(number, [csv_text(field.strip()) for field in fields]) for number, fields in filled]
    except csv.Error as e:
        raise Problem(f'is not CSV (line {reader.line_num}: {e}); write the file again') from e
    return (lines[0][1] if lines else []), lines[1:]
