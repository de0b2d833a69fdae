"""Google Cloud Storage on the loopback address for tests: the parts of its JSON interface that gcsfs reads with."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


class LoopbackGoogle:
    """One bucket in memory.

    Attributes:
        files: Objects of the bucket by name.
        failures: Number of the next requests that get the status 503.
        url: URL for STORAGE_EMULATOR_HOST.
    """

    def __init__(self, bucket: str) -> None:
        self.bucket, self.files, self.failures = bucket, dict[str, bytes](), 0
        self.server = ThreadingHTTPServer(('127.0.0.1', 0), type('Handler', (_Handler,), {'store': self}))
        self.server.daemon_threads = True
        self.url = f'http://127.0.0.1:{self.server.server_port}'

    def __enter__(self) -> LoopbackGoogle:
        threading.Thread(target=self.server.serve_forever, kwargs={'poll_interval': 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def about(self, name: str) -> dict[str, Any]:
        content = self.files[name]
        etag = hashlib.sha256(content).hexdigest()
        return {'bucket': self.bucket, 'name': name, 'size': str(len(content)), 'etag': etag, 'kind': 'storage#object'}

    def listing(self, prefix: str, delimiter: str) -> dict[str, Any]:
        items, folders = [], set()
        for name in sorted(self.files):
            if name.startswith(prefix):
                folder, inside, _ = name[len(prefix) :].partition(delimiter) if delimiter else (name, '', '')
                if inside:
                    folders.add(prefix + folder + inside)
                else:
                    items.append(self.about(name))
        return {'kind': 'storage#objects', 'items': items, 'prefixes': sorted(folders)}


class _Handler(BaseHTTPRequestHandler):
    store: LoopbackGoogle
    protocol_version = 'HTTP/1.1'

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        root = f'/storage/v1/b/{self.store.bucket}'
        place = parts.path.removeprefix('/download')
        name = unquote(place.removeprefix(f'{root}/o/'))
        if self.store.failures:
            self.store.failures -= 1
            self.respond(503, {'error': {'code': 503}})
        elif place == f'{root}/o':
            self.respond(200, self.store.listing(query.get('prefix', ''), query.get('delimiter', '')))
        elif place == root:
            self.respond(200, {'kind': 'storage#bucket', 'name': self.store.bucket})
        elif not place.startswith(f'{root}/o/') or name not in self.store.files:
            self.respond(404, {'error': {'code': 404, 'message': 'not found'}})
        elif query.get('alt') == 'media':
            self.send_content(self.store.files[name])
        else:
            self.respond(200, self.store.about(name))

    def send_content(self, content: bytes) -> None:
        limits = self.headers.get('Range', '').removeprefix('bytes=')
        if not limits:
            self.respond(200, content)
            return
        first, last = limits.split('-')
        start, stop = int(first), min(int(last or len(content) - 1) + 1, len(content))
        if start >= len(content):
            self.respond(416, b'')
        else:
            self.respond(206, content[start:stop], Content_Range=f'bytes {start}-{stop - 1}/{len(content)}')

    def respond(self, status: int, body: bytes | dict[str, Any], **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header('Content-Type', 'application/octet-stream' if isinstance(body, bytes) else 'application/json')
        self.send_header('Content-Length', str(len(content)))
        for key, value in headers.items():
            self.send_header(key.replace('_', '-'), value)
        self.end_headers()
        self.wfile.write(content)
