"""Folders of reports, as `fcam-zoo benchmark -o` writes them."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import ReportError
from .compare import Comparison
from .html import write_html
from .report import Report
from .sources import MapOf

_COMPARISON, _PAGE = 'comparison.json', 'report.html'
# Bytes of a file name without suffix; file systems allow 255 with suffix and temporary parts.
_MAX_STEM = 150


def write_reports(
    folder: Path,
    reports: Mapping[str, Report],
    comparison: Comparison,
    dataset: Any = None,
    maps: Mapping[str, MapOf] | None = None,
    command: str | None = None,
) -> Path:
    """Write report.html, comparison.json, and JSON and CSV files of each report. All files appear, or none.

    They replace the files of an earlier benchmark in the folder.

    Args:
        folder: An existing folder.
        reports: Name -> report, evaluated with `rows=True`.
        comparison: Comparison of these reports.
        dataset: As for `write_html`.
        maps: As for `write_html`.
        command: As for `write_html`.

    Returns:
        The path of report.html.
    """
    with tempfile.TemporaryDirectory(prefix='.report-', dir=folder) as name:
        unfinished = Path(name)
        for stem, report in zip(_file_stems(reports), reports.values()):
            report.to_json(unfinished / f'{stem}.json')
            report.to_csv(unfinished / f'{stem}.csv')
            for kind in report.tables:
                report.to_csv(unfinished / f'{stem}_{kind}.csv', kind)
        comparison.to_json(unfinished / _COMPARISON)
        write_html(reports, unfinished / _PAGE, dataset, maps, comparison=comparison, command=command)
        earlier = _files_of(folder)
        for path in sorted(unfinished.iterdir()):
            path.replace(folder / path.name)
            earlier.discard(folder / path.name)
        for path in earlier:
            path.unlink(missing_ok=True)
    return folder / _PAGE


def holds_reports(folder: Path) -> bool:
    """Return whether a folder holds the reports of a benchmark."""
    return any((folder / name).exists() for name in (_COMPARISON, _PAGE))


def _files_of(folder: Path) -> set[Path]:
    """Return the files that a benchmark wrote to a folder; only those of its comparison if that is damaged."""
    files = {folder / _COMPARISON, folder / _PAGE}
    try:
        names = dict.fromkeys(row.maps for row in Comparison.from_json(folder / _COMPARISON).rows)
    except (FileNotFoundError, ReportError):
        return files
    ends = ('.json', '.csv', '_classes.csv', '_sizes.csv')
    return files | {folder / f'{stem}{end}' for stem in _file_stems(names) for end in ends}


def _file_stems(names: Iterable[str]) -> list[str]:
    """Return a file name without suffix for each report; no two are equal, even if case is ignored."""
    stems, taken = [], {'comparison'}
    numbers: dict[str, int] = {}  # the last one of each name, so that many equal names take little time
    for name in names:
        stem = safe = re.sub(r'[^\w.-]+', '_', name).encode()[:_MAX_STEM].decode(errors='ignore')
        number = numbers.get(safe.lower(), 1)
        while taken & (files := {stem.lower(), f'{stem}_classes'.lower(), f'{stem}_sizes'.lower()}):
            number += 1
            stem = f'{safe}_{number}'
        numbers[safe.lower()] = number
        taken |= files
        stems.append(stem)
    return stems


def read_reports(paths: str | os.PathLike | Iterable[str | os.PathLike]) -> dict[str, Report]:
    """Read reports from folders that `fcam-zoo benchmark -o` wrote, or from single JSON files.

    Args:
        paths: A folder or file, or several.

    Returns:
        Name -> report, in the order of the paths. Reports of a folder keep their names, a file has the name of its
        kind of map. If a name occurs twice, the name of its folder or file is put before it, as in 'report/cam'.

    Raises:
        FileNotFoundError: When a folder, a file or a report of a folder is missing.
        ReportError: When a file is damaged.
        ValueError: When a folder does not hold reports, or two reports have the same full name.
    """
    given = [Path(p) for p in ([paths] if isinstance(paths, (str, os.PathLike)) else paths)]
    found = [(path, _read_folder(path) if path.is_dir() else _read_file(path)) for path in given]
    names = [name for _, reports in found for name in reports]
    reports: dict[str, Report] = {}
    for path, those in found:
        for name, report in those.items():
            full = name if names.count(name) == 1 else f'{path.resolve().stem}/{name}'
            if full in reports:
                raise ValueError(f'{path}: the name {full} occurs twice: give each report once, or rename the folder')
            reports[full] = report
    return reports


def _read_file(path: Path) -> dict[str, Report]:
    report = Report.from_json(path)
    return {report.maps: report}


def _read_folder(folder: Path) -> dict[str, Report]:
    path = folder / _COMPARISON
    if not path.is_file():
        raise ValueError(f'{folder} has no {_COMPARISON}: make the reports with fcam-zoo benchmark … -o {folder}')
    names = list(dict.fromkeys(row.maps for row in Comparison.from_json(path).rows))
    return {name: Report.from_json(folder / f'{stem}.json') for name, stem in zip(names, _file_stems(names))}
