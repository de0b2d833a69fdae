"""Tables of the site that are made from the package, so that no figure is typed twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fcam_zoo import list_models
from fcam_zoo.hub.card import readme_table


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in what pages leave open."""
    names = '\n'.join(f'- `{name}`' for name in list_models() if name not in list_models(pretrained=True))
    filled = {'{{ models }}': readme_table(), '{{ names without weights }}': names, '{{ tables }}': _tables()}
    for gap, text in filled.items():
        markdown = markdown.replace(gap, text)
    return markdown


def _tables() -> str:
    """What `python -m fcam_zoo.hub.results` wrote, below its heading."""
    path = Path(__file__).parents[1] / 'results' / 'tables.md'
    return path.read_text(encoding='utf-8').partition('\n')[2]
