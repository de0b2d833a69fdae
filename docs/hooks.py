"""Insert tables that are generated from the package into the pages of the site."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fcam_zoo import list_models
from fcam_zoo.hub.card import readme_table


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the placeholders of a page."""
    names = '\n'.join(f'- `{name}`' for name in list_models() if name not in list_models(pretrained=True))
    values = {'{{ models }}': readme_table(), '{{ names without weights }}': names, '{{ tables }}': _tables()}
    for placeholder, text in values.items():
        markdown = markdown.replace(placeholder, text)
    return markdown


def _tables() -> str:
    """What `python -m fcam_zoo.hub.results` wrote, below its heading."""
    path = Path(__file__).parents[1] / 'results' / 'tables.md'
    return path.read_text(encoding='utf-8').partition('\n')[2]
