"""Files of the folders that `fcam-zoo benchmark -o` writes."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

from .report import Report

COMPARISON = 'comparison.json'


def file_stems(names: Iterable[str]) -> list[str]:
    """Return a file name without suffix for each report; no two are equal, even when case is ignored."""
    stems, taken = [], {'comparison'}
    for name in names:
        stem = safe = re.sub(r'[^\w.-]+', '_', name)
        number = 1
        while taken & (files := {stem.lower(), f'{stem}_classes'.lower(), f'{stem}_sizes'.lower()}):
            number += 1
            stem = f'{safe}_{number}'
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
        ValueError: When a folder or file does not hold reports, or two reports have the same full name.
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
    path = folder / COMPARISON
    if not path.is_file():
        raise ValueError(f'{folder} has no {COMPARISON}: make the reports with fcam-zoo benchmark … -o {folder}')
    try:
        names = list(dict.fromkeys(row['maps'] for row in json.loads(path.read_text(encoding='utf-8'))['rows']))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f'{path} is not a comparison of fcam-zoo benchmark ({error!r}): run the benchmark again'
        ) from error
    return {name: Report.from_json(folder / f'{stem}.json') for name, stem in zip(names, file_stems(names))}
