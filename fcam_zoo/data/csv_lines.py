"""Lines of a CSV file."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from .._io import csv_text
from .annotations import Annotations
from .values import Problem, collect_problem, read_text

Row = TypeVar('Row')


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


def parse_lines(
    data: Annotations, columns: list[str], lines: list[tuple[int, list[str]]], parse: Callable[[list[str], str], Row]
) -> list[Row]:
    """Parse the lines of `read_csv`; the problems of a line are collected in `data`, and the line is left out.

    Args:
        data: The data set; `path` is the CSV file.
        columns: The header.
        lines: Number and fields of each line.
        parse: Returns the row of the fields, given them and their place (file and line); raises Problem.
    """
    rows: list[Row] = []
    for number, fields in lines:
        where = f'{data.path}, line {number}'
        with collect_problem(data.problems, where):
            if len(fields) != len(columns):
                raise Problem(f'{len(fields)} fields; write {",".join(columns)}')
            rows.append(parse(fields, where))
    return rows
