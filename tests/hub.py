"""A server that speaks as much of the Hugging Face hub's endpoints as downloading a model takes, with real files.

Small files are answered behind a redirect on the hub itself; weights lie on another host, which refuses requests that
bring the hub's token along, as storage with signed addresses does.
"""

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

TOKEN = "hf_good"
API = re.compile(r"/api/models/([^/]+/[^/]+)/(revision|tree)/([^/]+)/?")
RESOLVE = re.compile(r"/(?:api/resolve-cache/models/)?([^/]+/[^/]+?)/(?:resolve/)?([0-9a-f]{40}|[^/]+)/(.+)")


@dataclass
class Repo:
    """A model: its files by commit, and which commits its branches and tags are."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: bool = False

    def push(self, folder: Path, *refs: str, **more: bytes) -> str:
        """A new commit of these files, which the refs become."""
        files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())} | more
        commit = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits[commit] = files
        self.refs |= dict.fromkeys(refs, commit)
        return commit


@dataclass
class Hub:
    """The server; `asked` counts its requests by method and path, `status` other than 200 is its only answer."""

    repos: dict[str, Repo] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    status: int = 200
    silent: bool = False
    accounts: dict[str, bool] = field(default_factory=lambda: {TOKEN: True})  # tokens; True: has accepted the terms
    port: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def env(self, home: Path, **more: str) -> dict[str, str]:
        """The environment of a client with a cache of its own."""
        return {
            "HF_ENDPOINT": self.address,
            "HF_HOME": str(home),
            "HF_TOKEN": "",
            "NO_PROXY": "127.0.0.1,localhost",
        } | more

    def downloads(self) -> dict[str, int]:
        """How often each weights file was fetched from its host."""
        return {path: count for path, count in self.asked.items() if path.startswith("GET /storage/")}


class Handler(BaseHTTPRequestHandler):
    """Answers in the words of huggingface.co."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path.startswith(("/api/models/", "/storage/")) or RESOLVE.fullmatch(path):
            self.hub.asked[f"{self.command} {path}"] += 1  # the client's library looks up things of its own, too
        if self.hub.silent:
            self.hub.over.wait()
            self.close_connection = True
        elif self.hub.status != 200:
            self.refuse(self.hub.status, "", "busy")
        elif path.startswith("/storage/"):
            self.storage(path.rpartition("/")[2])
        elif found := API.fullmatch(path):
            self.api(*map(unquote, found.groups()))
        elif found := RESOLVE.fullmatch(path):
            self.resolve(*map(unquote, found.groups()), moved=path.startswith("/api/"))
        else:
            self.refuse(404, "", "Not Found")

    def allowed(self, name: str, *, content: bool) -> Repo | None:
        """The model, if whoever asks may read it; else the refusal is sent. A gated model's page is open to all."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        repo = self.hub.repos.get(name)
        if token and token not in self.hub.accounts:
            self.refuse(401, "", "Invalid credentials in Authorization header")
        elif repo is None:
            self.refuse(404 if token else 401, "RepoNotFound", "Repository not found")
        elif repo.gated and content and not self.hub.accounts.get(token):
            self.refuse(403 if token else 401, "GatedRepo", f"Access to model {name} is restricted.")
        else:
            return repo
        return None

    def api(self, name: str, what: str, revision: str) -> None:
        repo = self.allowed(name, content=what == "tree")
        if repo is None:
            return
        commit = repo.refs.get(revision, revision)
        if commit not in repo.commits:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        files = repo.commits[commit]
        about = {"_id": "0", "id": name, "modelId": name, "sha": commit, "gated": repo.gated, "tags": []}
        siblings = [{"rfilename": file} for file in files]
        tree = [{"type": "file", "path": file, "oid": blob(data), "size": len(data)} for file, data in files.items()]
        self.send(json.dumps(tree if what == "tree" else {**about, "siblings": siblings}).encode())

    def resolve(self, name: str, revision: str, file: str, *, moved: bool) -> None:
        repo = self.allowed(name, content=True)
        if repo is None:
            return
        commit = repo.refs.get(revision, revision)
        data = repo.commits.get(commit, {}).get(file)
        if data is None:
            self.refuse(404, "EntryNotFound" if commit in repo.commits else "RevisionNotFound", "not found")
        elif file.endswith(".json"):
            about = {"X-Repo-Commit": commit, "ETag": f'"{blob(data)}"'}
            away = {} if moved else {"Location": f"/api/resolve-cache/models/{name}/{commit}/{file}"}
            self.send(b"" if away else data, 307 if away else 200, about | away)
        else:
            digest = hashlib.sha256(data).hexdigest()
            linked = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(data)), "X-Repo-Commit": commit}
            self.send(b"", 302, {**linked, "Location": f"http://localhost:{self.hub.port}/storage/{digest}"})

    def storage(self, digest: str) -> None:
        if "Authorization" in self.headers:
            self.refuse(400, "", "Only one auth mechanism allowed")
            return
        files = [data for repo in self.hub.repos.values() for files in repo.commits.values() for data in files.values()]
        self.send(next(data for data in files if hashlib.sha256(data).hexdigest() == digest))

    def refuse(self, status: int, code: str, message: str) -> None:
        about = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.send(json.dumps({"error": message}).encode(), status, about)

    def send(self, data: bytes, status: int = 200, about: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(about or {}), "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nothing: tests look at `asked`."""


def blob(data: bytes) -> str:
    """What git calls a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextmanager
def hub_server() -> Iterator[Hub]:
    """A hub without models, on a free port of both loopback names."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    hub.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.over.set()
        server.shutdown()
        server.server_close()
        thread.join()
