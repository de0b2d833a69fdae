"""A Hugging Face Hub in this process, on the loopback interface, which can simulate faults."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class LoopbackHub:
    """Repositories in memory.

    Attributes:
        endpoint: URL for HF_ENDPOINT.
        repos: Commits by repository, each (commit, files by name), the newest last.
        requests: (method, path, headers) of all requests.
        failures: Number of the next requests that get the status 503.
        status: HTTP status of every response, with `error_code` in the Hub's own header.
        cuts: Number of bytes after which the connection of a download is closed, one entry per download.
        altered: Content to send instead of a file, by file name; size and ETag stay those of the file.
        stall: Seconds before a response, or until the hub stops.
        token: Refuse requests without this token.
        card_fault: Error message for every model card.
    """

    def __init__(self) -> None:
        self.repos: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.failures = 0
        self.status: int | None = None
        self.error_code = ''
        self.cuts: list[int] = []
        self.altered: dict[str, bytes] = {}
        self.stall = 0.0
        self.token: str | None = None
        self.card_fault = ''
        self.stopped = threading.Event()
        self.large: dict[str, bytes] = {}
        self.server = ThreadingHTTPServer(('127.0.0.1', 0), type('Handler', (_Handler,), {'hub': self}))
        self.server.daemon_threads = True
        self.endpoint = f'http://127.0.0.1:{self.server.server_port}'
        threading.Thread(target=self.server.serve_forever, kwargs={'poll_interval': 0.01}, daemon=True).start()

    def stop(self) -> None:
        self.stopped.set()
        self.server.shutdown()
        self.server.server_close()

    def add(self, repo: str, files: dict[str, bytes]) -> str:
        """Add a commit that consists of these files, and return its hash."""
        commits = self.repos.setdefault(repo, [])
        commit = hashlib.sha1(f'{repo}{len(commits)}'.encode()).hexdigest()
        commits.append((commit, files))
        return commit

    def files(self, repo: str) -> dict[str, bytes]:
        return self.repos[repo][-1][1]

    def headers_of(self, method: str, ending: str) -> list[dict[str, str]]:
        """Headers of the requests of a method whose path has this ending."""
        return [headers for m, path, headers in self.requests if m == method and path.endswith(ending)]


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = 'HTTP/1.1'

    def log_message(self, *args) -> None:
        pass

    def respond(self, status: int, body: bytes | dict | list = b'', **headers: str) -> None:
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header('Content-Length', str(len(body)))
        for key, value in headers.items():
            self.send_header(key.replace('_', '-'), value)
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(body)

    def begin(self) -> str | None:
        """Path of the request; None if a fault was simulated."""
        path = unquote(urlsplit(self.path).path)
        length = int(self.headers.get('Content-Length') or 0)
        self.body = self.rfile.read(length)
        self.hub.requests.append((self.command, path, dict(self.headers)))
        if self.hub.stopped.wait(self.hub.stall):
            self.close_connection = True
            return None
        if self.hub.token and self.headers.get('Authorization') != f'Bearer {self.hub.token}':
            self.respond(401)
            return None
        if self.hub.failures:
            self.hub.failures -= 1
            self.respond(503)
            return None
        if self.hub.status:
            self.respond(self.hub.status, X_Error_Code=self.hub.error_code)
            return None
        return path

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.begin()
        if path is None:
            return
        if path.startswith('/api/datasets/'):
            self.list_dataset(path.removeprefix('/api/'))
            return
        repo, found, rest = path[1:].partition('/resolve/')
        revision, _, file = rest.partition('/')
        if not found or repo not in self.hub.repos:
            self.respond(404, X_Error_Code='RepoNotFound')
            return
        commits = dict(self.hub.repos[repo])
        commit = self.hub.repos[repo][-1][0] if revision == 'main' else revision
        if commit not in commits:
            self.respond(404, X_Error_Code='RevisionNotFound')
        elif file not in commits[commit]:
            self.respond(404, X_Error_Code='EntryNotFound', X_Repo_Commit=commit)
        else:
            self.send_file(commit, file, commits[commit][file])

    def list_dataset(self, path: str) -> None:
        """Answer what a data set is, or which files and folders are in one of its folders."""
        repo, found, rest = path.partition('/tree/')
        repo = repo.partition('/revision/')[0]
        if repo not in self.hub.repos:
            self.respond(404, X_Error_Code='RepoNotFound')
            return
        if not found:
            self.respond(200, {'id': repo.removeprefix('datasets/'), 'sha': self.hub.repos[repo][-1][0]})
            return
        folder = rest.partition('/')[2]
        inside = {n: c for n, c in self.hub.files(repo).items() if n.startswith(f'{folder}/') or not folder}
        if not inside:
            self.respond(404, X_Error_Code='EntryNotFound')
            return
        depth = 1 + len(folder.split('/')) if folder else 1
        is_deep = 'recursive=true' in self.path.lower()
        entries = {}
        for name, content in inside.items():
            parents = ['/'.join(name.split('/')[:n]) for n in range(depth, name.count('/') + 1)]
            for parent in parents if is_deep else parents[:1]:
                entries[parent] = {'type': 'directory', 'path': parent, 'oid': '', 'size': 0}
            if is_deep or not parents:
                oid = hashlib.sha1(content).hexdigest()
                entries[name] = {'type': 'file', 'path': name, 'oid': oid, 'size': len(content)}
        self.respond(200, list(entries.values()))

    def send_file(self, commit: str, file: str, content: bytes) -> None:
        sha = hashlib.sha256(content).hexdigest()
        announced = len(content)
        content = self.hub.altered.get(file, content)
        start, _, last = self.headers.get('Range', 'bytes=0-').removeprefix('bytes=').partition('-')
        start, sent = int(start), announced if self.command == 'HEAD' else len(content)
        stop = min(int(last) + 1, sent) if last else sent
        self.send_response(206 if 'Range' in self.headers else 200)
        self.send_header('Content-Length', str(stop - start))
        if 'Range' in self.headers:
            self.send_header('Content-Range', f'bytes {start}-{stop - 1}/{sent}')
        self.send_header('X-Repo-Commit', commit)
        self.send_header('ETag', f'"{sha}"')
        self.end_headers()
        if self.command == 'HEAD':
            return
        if self.hub.cuts and file.endswith('.safetensors'):
            self.wfile.write(content[start : start + self.hub.cuts.pop(0)])
            self.close_connection = True
            return
        self.wfile.write(content[start:stop])

    def do_PUT(self) -> None:
        path = self.begin()
        if path is not None:
            self.hub.large[path.rpartition('/')[2]] = self.body
            self.respond(200)

    def do_POST(self) -> None:
        path = self.begin()
        if path is None:
            return
        if path == '/api/repos/create':
            request = json.loads(self.body)
            repo = f'{request["organization"]}/{request["name"]}'
            known = repo in self.hub.repos
            if not known:
                self.hub.add(repo, {})
            self.respond(409 if known else 200, {'url': f'{self.hub.endpoint}/{repo}'})
        elif path.endswith('/info/lfs/objects/batch'):
            objects = [
                {**o, 'actions': {'upload': {'href': f'{self.hub.endpoint}/large/{o["oid"]}'}}}
                for o in json.loads(self.body)['objects']
            ]
            self.respond(200, {'objects': objects, 'transfer': 'basic'}, Content_Type='application/vnd.git-lfs+json')
        elif path == '/api/validate-yaml' and self.hub.card_fault:
            self.respond(400, {'errors': [{'message': self.hub.card_fault}], 'warnings': []})
        elif '/preupload/' in path:
            modes = [
                {
                    'path': f['path'],
                    'uploadMode': 'lfs' if f['path'].endswith('.safetensors') else 'regular',
                    'shouldIgnore': False,
                    'oid': None,
                }
                for f in json.loads(self.body)['files']
            ]
            self.respond(200, {'files': modes})
        elif '/commit/' in path:
            repo = path.removeprefix('/api/models/').partition('/commit/')[0]
            commit = self.hub.add(repo, self.committed())
            self.respond(200, {'commitUrl': f'{self.hub.endpoint}/{repo}/commit/{commit}', 'commitOid': commit})
        else:
            self.respond(200, {})

    def committed(self) -> dict[str, bytes]:
        files = {}
        for line in map(json.loads, self.body.splitlines()):
            value = line['value']
            if line['key'] == 'file':
                files[value['path']] = base64.b64decode(value['content'])
            elif line['key'] == 'lfsFile':
                files[value['path']] = self.hub.large[value['oid']]
        return files
