"""A server that answers as the Hugging Face Hub does, as far as a home needs it: trees in pages, redirects to signed
addresses of another host, tokens, uploads in two steps and commits."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from deapcache_servers import in_a_thread

WRITE, READ = "hf_write", "hf_read"
"""Tokens."""
_PAGE = 5
"""Entries of one page of a tree; the Hub's has 1,000."""
_FIELDS = {"private": False, "downloads": 0, "likes": 0, "tags": [], "siblings": []}


@dataclass
class Hub:
    """The state of both hosts: repositories, their commits, and what was asked."""

    url: str = ""
    storage: str = ""
    private: bool = False
    refuse: int = 0
    """Status with which every request is refused."""
    signature: str = "signed-1"
    """What signed addresses have; others have run out."""
    repositories: dict[str, list[str]] = field(default_factory=dict)
    """Repository → its commits, oldest first."""
    trees: dict[str, dict[str, tuple[bytes, bool]]] = field(default_factory=dict)
    """Commit → path → (bytes, whether they lie in the storage)."""
    blobs: dict[str, bytes] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    requests: list[tuple[str, str, str, str | None, str | None]] = field(default_factory=list)
    """Host (hub or storage), method, path, Authorization, Range."""
    sent: int = 0
    """Bytes that the storage sent."""

    def files(self, repository: str) -> dict[str, bytes]:
        """What the repository holds now."""
        return {path: data for path, (data, _) in self.trees[self.repositories[repository][-1]].items()}

    def add_commit(self, repository: str, tree: dict[str, tuple[bytes, bool]]) -> str:
        """Make a commit of these files."""
        commit = hashlib.sha1(f"{repository} {len(self.trees)}".encode()).hexdigest()
        self.repositories.setdefault(repository, []).append(commit)
        self.trees[commit] = tree
        return commit


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    host = "hub"

    @property
    def hub(self) -> Hub:
        return self.server.hub  # type: ignore[attr-defined, no-any-return]

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, body: bytes | dict[str, Any] | list[Any] = b"", **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length) if length else b""
        self.place = urlsplit(self.path)
        asked = (self.host, self.command, self.path, self.headers.get("Authorization"), self.headers.get("Range"))
        self.hub.requests.append(asked)
        self.route()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815 - names of http.server

    def route(self) -> None:
        raise NotImplementedError

    def send_file(self, data: bytes) -> None:
        found = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        if not found:
            self.answer(200, data, ETag='"x"')
            return
        start = int(found[1]) if found[1] else max(0, len(data) - int(found[2]))
        stop = min(int(found[2]) + 1, len(data)) if found[1] and found[2] else len(data)
        if start >= len(data):
            self.answer(416)
        else:
            self.answer(206, data[start:stop], Content_Range=f"bytes {start}-{stop - 1}/{len(data)}")


class Storage(_Handler):
    host = "storage"

    def route(self) -> None:
        oid = self.place.path.rpartition("/")[2]
        if self.command == "HEAD" or parse_qs(self.place.query).get("Signature") != [self.hub.signature]:
            self.answer(403)  # signed for GET, or PUT, and for an hour
        elif self.command == "PUT":
            self.hub.blobs[hashlib.sha256(self.body).hexdigest()] = self.body
            self.answer(200)
        else:
            before = self.wfile
            self.send_file(self.hub.blobs[oid])
            assert before is self.wfile
            found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
            self.hub.sent += int(found[2]) - int(found[1]) + 1 if found else 0


class _Hub(_Handler):
    def route(self) -> None:
        path = unquote(self.place.path)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if self.hub.refuse:
            self.answer(self.hub.refuse, Retry_After="0")
        elif path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            self.create(token)
        elif found := re.fullmatch(r"/(?:api/)?datasets/([\w.-]+/[\w.-]+?)(?:\.git/info/lfs)?(?:/(.*))?", path):
            self.of_repository(found[1], found[2] or "", token)
        else:
            self.answer(404)

    def create(self, token: str) -> None:
        asked = json.loads(self.body)
        name = f"{asked['organization']}/{asked['name']}"
        if token != WRITE:
            self.answer(403 if token == READ else 401, {"error": "no"})
        elif name in self.hub.repositories:
            self.answer(409, {"error": "You already created it", "url": f"{self.hub.url}/datasets/{name}"})
        else:
            self.hub.add_commit(name, {".gitattributes": (b"*.zip filter=lfs\n", False)})
            self.hub.private = asked["visibility"] == "private"
            self.answer(200, {"url": f"{self.hub.url}/datasets/{name}"})

    def of_repository(self, name: str, rest: str, token: str) -> None:
        if name not in self.hub.repositories or (self.hub.private and token not in (READ, WRITE)):
            self.answer(404 if token else 401, X_Error_Code="RepoNotFound")
            return
        verb, _, rest = rest.partition("/")
        if verb in ("preupload", "commit", "objects") and token != WRITE:
            self.answer(403 if token else 401, X_Error_Message="You must use a write token")
            return
        if verb == "objects":
            self.lfs(name)
            return
        revision, _, path = rest.partition("/")
        commits = self.hub.repositories[name]
        commit = commits[-1] if revision == "main" else revision
        if commit not in commits:
            self.answer(404, X_Error_Code="RevisionNotFound")
        else:
            getattr(self, f"on_{verb.replace('-', '_')}")(name, commit, path)

    def on_revision(self, name: str, commit: str, _: str) -> None:
        self.answer(200, {"id": name, "sha": commit, **_FIELDS})

    def facts(self, path: str, found: tuple[bytes, bool]) -> dict[str, Any]:
        oid = hashlib.sha1(found[0]).hexdigest()
        facts = {"type": "file", "path": path, "size": len(found[0]), "oid": oid}
        lfs = {"oid": hashlib.sha256(found[0]).hexdigest(), "size": len(found[0]), "pointerSize": 133}
        return {**facts, "lfs": lfs} if found[1] else facts

    def on_tree(self, name: str, commit: str, folder: str) -> None:
        below = f"{folder}/" if folder else ""
        found = [self.facts(*each) for each in sorted(self.hub.trees[commit].items()) if each[0].startswith(below)]
        if not found:
            self.answer(404, X_Error_Code="EntryNotFound")
            return
        folders = {"/".join(each["path"].split("/")[:-1]) for each in found} - {"", folder}
        found += [{"type": "directory", "path": each, "oid": "0" * 40} for each in sorted(folders)]
        start = int(parse_qs(self.place.query).get("cursor", ["0"])[0])
        more = {}
        if start + _PAGE < len(found):
            url = f"{self.hub.url}{self.place.path}?recursive=True&cursor={start + _PAGE}"
            more = {"Link": f'<{url}>; rel="next"'}
        self.answer(200, found[start : start + _PAGE], **more)

    def on_paths_info(self, name: str, commit: str, _: str) -> None:
        tree = self.hub.trees[commit]
        wanted = parse_qs(self.body.decode())["paths"]
        self.answer(200, [self.facts(path, tree[path]) for path in wanted if path in tree])

    def on_resolve(self, name: str, commit: str, path: str) -> None:
        found = self.hub.trees[commit].get(path)
        about = {"X_Repo_Commit": commit}
        if found is None:
            self.answer(404, X_Error_Code="EntryNotFound")
        elif found[1]:
            oid = hashlib.sha256(found[0]).hexdigest()
            about |= {"X_Linked_Size": str(len(found[0])), "X_Linked_ETag": f'"{oid}"'}
            self.answer(302, Location=f"{self.hub.storage}/{oid}?Signature={self.hub.signature}", **about)
        else:
            self.answer(307, Location=f"/api/datasets/{name}/cached/{commit}/{quote(path)}", **about)

    def on_cached(self, name: str, commit: str, path: str) -> None:
        self.send_file(self.hub.trees[commit][path][0])

    def on_preupload(self, name: str, commit: str, _: str) -> None:
        files = []
        for each in json.loads(self.body)["files"]:
            is_binary = b"\0" in base64.b64decode(each["sample"])
            mode = "lfs" if is_binary or each["size"] > 10_000_000 else "regular"
            files.append({"path": each["path"], "uploadMode": mode, "shouldIgnore": False})
        self.answer(200, {"files": files})

    def lfs(self, name: str) -> None:
        objects = []
        for each in json.loads(self.body)["objects"]:
            href = f"{self.hub.storage}/{each['oid']}?Signature={self.hub.signature}"
            actions = {} if each["oid"] in self.hub.blobs else {"actions": {"upload": {"href": href}}}
            objects.append({**each, **actions})
        self.answer(200, {"transfer": "basic", "objects": objects})

    def on_commit(self, name: str, commit: str, _: str) -> None:
        tree = dict(self.hub.trees[commit])
        for line in self.body.splitlines():
            item = json.loads(line)
            key, value = item["key"], item["value"]
            if key == "header":
                self.hub.messages.append(value["summary"])
            elif key == "file":
                tree[value["path"]] = base64.b64decode(value["content"]), False
            elif key == "lfsFile":
                tree[value["path"]] = self.hub.blobs[value["oid"]], True
        made = self.hub.add_commit(name, tree)
        self.answer(200, {"commitUrl": f"{self.hub.url}/datasets/{name}/commit/{made}", "commitOid": made})


@contextmanager
def hub_served() -> Iterator[Hub]:
    """Both hosts, while the block runs."""
    hub = Hub()
    servers = []
    for handler in (_Hub, Storage):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.hub = hub  # type: ignore[attr-defined]
        servers.append(server)
    hub.url, hub.storage = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    with in_a_thread(servers[0]), in_a_thread(servers[1]):
        yield hub
