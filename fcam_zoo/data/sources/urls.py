"""URLs of images: what their text says, and what of it may be shown."""

from __future__ import annotations

import posixpath
import re
from urllib.parse import unquote, urlsplit

from ..._io import one_line

_URL = re.compile(r'[A-Za-z][A-Za-z0-9+.-]+://')
_URLS = re.compile(rf'{_URL.pattern}[^\s\'"]+')


def is_url(text: str) -> bool:
    """Return whether text is a URL; a drive letter is not a scheme."""
    return _URL.match(text) is not None


def public_url(text: str) -> str:
    """Return a URL without user, password, query and fragment, for messages and files; other text unchanged.

    Those parts may hold keys, as in signed URLs. In URLs of stores other than web servers, `?` and `#` may belong to
    the name of an object; they are kept, unless a query `?key=…` follows.
    """
    if not is_url(text):
        return text
    scheme, _, rest = text.partition('://')
    host, slash, path = rest.partition('/')
    if is_http(text):
        host, path = re.split('[?#]', host, maxsplit=1)[0], re.split('[?#]', path, maxsplit=1)[0]
    else:
        path = re.split(r'[?][^/?*\[\]]+=', path, maxsplit=1)[0]
    return f'{scheme}://{_without_user(host, scheme)}{slash}{path}'


def _without_user(host: str, scheme: str) -> str:
    """Remove user and password; a name alone is kept, because it is the container in URLs of Azure."""
    user, at, name = host.rpartition('@')
    return name if ':' in user or scheme.lower() in ('http', 'https') else f'{user}{at}{name}'


def shown(url: str) -> str:
    """Return a URL for a message."""
    return one_line(public_url(url))


def public_urls_in(text: str) -> str:
    """Return text with all URLs in it as `public_url` returns them."""
    return _URLS.sub(lambda found: public_url(found[0]), text)


def path_of_url(url: str) -> str:
    """Return host and path of a URL, without scheme and user; of HTTP URLs also without query, and decoded."""
    scheme, _, rest = url.partition('://')
    if not is_http(url):
        host, slash, path = rest.lstrip('/').partition('/')
        return f'{_without_user(host, scheme)}{slash}{path}'
    parts = urlsplit(url)
    return f'{_without_user(parts.netloc, scheme)}{unquote(parts.path)}'


def is_http(url: str) -> bool:
    """Return whether a URL is one of HTTP or HTTPS."""
    return url.lower().startswith(('http://', 'https://'))


def suffix_of(url: str) -> str:
    """Return the suffix of an object in lower case."""
    return posixpath.splitext(path_of_url(url).rstrip('/'))[1].lower()


def is_pattern(url: str) -> bool:
    """Return whether a URL is a pattern; `?` belongs to the query of HTTP URLs, so it is not a pattern."""
    return '*' in url or '[' in url.partition('://')[2].partition('/')[2]
