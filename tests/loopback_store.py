"""A web server on the loopback address for tests: byte ranges, folder pages, and failures on demand."""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


class LoopbackStore:
    """Serves `files` (path without leading slash -> content).

    Attributes:
        files: The objects.
        failures: Path -> how many of the next GET requests return `status`; -1 for all.
        status: The status of failures.
        delay: Seconds before each GET is answered.
        ranges: Whether byte ranges are supported.
        encoding: Content-Encoding of answers; empty without one.
        requests: Number of GET requests per path.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.failures: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.status, self.delay, self.ranges, self.encoding = 500, 0.0, True, ''
        store = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = 'HTTP/1.1'

            def log_message(self, *args: object) -> None:
                pass

            def do_HEAD(self) -> None:
                self.respond(False)

            def do_GET(self) -> None:
                store.requests[self.name()] += 1
                time.sleep(store.delay)
                self.respond(True)

            def name(self) -> str:
                return unquote(self.path.partition('?')[0].lstrip('/'))

            def respond(self, with_body: bool) -> None:
                path = self.name()
                body, status = store.files.get(path, b''), 200 if path in store.files else 404
                inside = [name for name in store.files if path.endswith('/') and name.startswith(path)]
                if inside:
                    body, status = ''.join(f'<a href="/{name}">x</a>\n' for name in inside).encode(), 200
                if with_body and store.failures[path]:
                    store.failures[path] -= 1
                    body, status = b'', store.status
                size, limits = len(body), self.headers.get('Range', '').removeprefix('bytes=')
                if status == 200 and limits and store.ranges:
                    first, _, last = limits.partition('-')
                    body, status = body[int(first) : int(last or size) + 1], 206
                self.send_response(status)
                self.send_header('Content-Length', str(len(body)))
                self.send_header('Accept-Ranges', 'bytes' if store.ranges else 'none')
                if store.encoding:
                    self.send_header('Content-Encoding', store.encoding)
                if status == 206:
                    self.send_header('Content-Range', f'bytes {first}-{int(first) + len(body) - 1}/{size}')
                self.end_headers()
                if with_body:
                    with suppress(ConnectionError):  # The client has read enough.
                        self.wfile.write(body)

        self._server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.url = f'http://127.0.0.1:{self._server.server_port}'
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> LoopbackStore:
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
