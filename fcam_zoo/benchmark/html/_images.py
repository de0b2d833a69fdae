"""Best and worst images of a report's page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..report import Report
from ..sources import MapOf
from ._page import cell, section
from ._pictures import data_url, picture, show


def images_section(reports: Mapping[str, Report], dataset: Any, maps: Mapping[str, MapOf], images: int) -> str:
    """Show the best and the worst images of each report, with the maps of all reports."""
    if not images or not any(reports[name].rows for name in maps):
        return ''
    # The centre baseline is the same map in each image, so its best and worst images are not shown.
    shown = [name for name in maps if reports[name].rows and reports[name].maps != 'center'] or list(maps)
    score = reports[shown[0]].description.row
    sections, cards = [], {}
    for name in shown:
        scored = [(row[score.key], i) for i, row in enumerate(reports[name].rows) if row[score.key] is not None]
        order = [i for _, i in sorted(scored, key=lambda pair: (-pair[0], pair[1]))]
        best, worst = order[:images], order[images:][::-1][:images]
        for i in (*best, *worst):
            if i not in cards:
                cards[i] = _card(i, shown, reports, dataset, maps)
        for word, chosen in (('Best', best), ('Worst', worst)):
            if chosen:
                found = ''.join(cards[i] for i in chosen)
                sections.append(f'<h3>{word} of {cell(name)}</h3><div class="cards">{found}</div>')
    note = (
        '<p class="note">Found at the best threshold: <b class="key found">magenta</b>; ground truth: '
        '<b class="key truth">white</b>; the map in colours from blue (low) to red (high), below it the '
        f'{cell(score.title)} of the image.</p>'
    )
    return section('Images', note + ''.join(sections))


def _card(i: int, shown: Sequence[str], reports: Mapping[str, Report], dataset: Any, maps: Mapping[str, MapOf]) -> str:
    """Show an image with its maps of all kinds."""
    image = picture(dataset, i)
    row = reports[shown[0]].rows[i]
    label = str(getattr(dataset, 'class_names', {}).get(row['label'], row['label']))
    tiles = []
    for name in shown:
        report = reports[name]
        drawn = show(image, maps[name](i), report, dataset, i)
        score = report.description.row
        text = cell(report.rows[i][score.key] if report.rows else None, score.digits)
        alt = f'{row["id"]}, class {label}: map {name}, {score.title} {text}'
        # More pixels than are shown keep lines crisp on dense screens.
        size = f'width="{round(drawn.width / 1.5)}" height="{round(drawn.height / 1.5)}"'
        tiles.append(
            f'<span class="tile"><img src="{data_url(drawn)}" {size} alt="{cell(alt)}">'
            f'<span>{cell(name)} <b>{text}</b></span></span>'
        )
    text = str(row['id']) if label in str(row['id']) else f'{row["id"]}: {label}'
    caption = f'<figcaption>{cell(text)}</figcaption>'
    return f'<figure class="card"><div class="tiles">{"".join(tiles)}</div>{caption}</figure>'
