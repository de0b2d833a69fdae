"""Tables of the site that are made from the package, so that no figure is typed twice."""

from __future__ import annotations

from typing import Any

from fcam_zoo import list_models
from fcam_zoo.hub.card import readme_table


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in what pages leave open."""
    names = '\n'.join(f'- `{name}`' for name in list_models() if name not in list_models(pretrained=True))
    return markdown.replace('{{ models }}', readme_table()).replace('{{ names without weights }}', names)
