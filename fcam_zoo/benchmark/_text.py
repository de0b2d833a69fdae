"""Text of names in outputs: names of files, classes and models may hold anything."""

from __future__ import annotations

import re
from typing import Any

# Also those that reverse the direction of text, halves of characters, and what XML does not allow.
_CONTROL = re.compile('[\0-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]')


def printable(text: str, longest: int | None = None) -> str:
    """Replace control characters, such as line breaks and those of terminals; shorten text to its end."""
    if longest is not None and len(text) > longest:
        text = f'…{text[1 - longest :]}'
    return _CONTROL.sub('\ufffd', text)


def as_unicode(value: Any) -> Any:
    """Replace what cannot be written as UTF-8 in all texts of a JSON value: names of files need not be Unicode."""
    if isinstance(value, str):
        return value.encode(errors='replace').decode()
    if isinstance(value, dict):
        return {key: as_unicode(item) for key, item in value.items()}
    return [as_unicode(item) for item in value] if isinstance(value, (list, tuple)) else value
