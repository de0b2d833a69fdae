"""Insert generated tables into the pages of the documentation site."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fcam_zoo import list_models

ROOT = Path(__file__).parents[1]


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the placeholders of a page by tables that `python -m tools.tables` wrote, and by model names."""
    readme = (ROOT / 'README.md').read_text(encoding='utf-8')
    models = readme.partition('<!-- models: begin')[2].partition('-->')[2].partition('<!-- models: end')[0]
    results = (ROOT / 'results' / 'tables.md').read_text(encoding='utf-8').partition('\n')[2]
    released = list_models(pretrained=True)
    names = '\n'.join(f'- `{name}`' for name in list_models() if name not in released)
    filled = {'{{ models }}': models.strip(), '{{ names without weights }}': names, '{{ tables }}': results}
    for placeholder, text in filled.items():
        markdown = markdown.replace(placeholder, text)
    return markdown
