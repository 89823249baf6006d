"""A Hub on the loopback: the part of the Hugging Face Hub's HTTP interface that huggingface_hub's client uses.

Repositories are held in memory as lists of commits, so that a test can look at what is visible and at what was asked.
Large files go the Hub's way: announced in an LFS batch, PUT by their sha256, which is checked, and served from another
host name, which must not be sent the user's token.
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

LARGE_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".onnx", ".parquet", ".arrow", ".msgpack")
LARGE_BYTES = 10_000_000


class Blob(NamedTuple):
    """A file of one commit."""

    content: bytes
    is_large: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def oid(self) -> str:
        """Git's name for the file, or for the pointer that stands for a large one."""
        stored = self.content
        if self.is_large:
            stored = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\n".encode()
            stored += f"size {len(self.content)}\n".encode()
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_large else self.oid


@dataclass
class Commit:
    oid: str
    message: str
    files: dict[str, Blob]


@dataclass
class Repo:
    kind: str
    name: str
    private: bool
    commits: list[Commit] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.commit("main", "initial commit", {".gitattributes": Blob(b"*.safetensors filter=lfs\n", False)})

    def commit(self, branch: str, message: str, files: dict[str, Blob]) -> Commit:
        seed = json.dumps([self.name, len(self.commits), message, sorted((p, b.oid) for p, b in files.items())])
        commit = Commit(hashlib.sha1(seed.encode()).hexdigest(), message, files)
        self.commits.append(commit)
        self.branches[branch] = commit.oid
        return commit

    def at(self, revision: str) -> Commit | None:
        """The commit that a branch, a tag or a commit's own name stands for."""
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        return next((commit for commit in self.commits if commit.oid == oid), None)

    def history(self, revision: str) -> list[Commit]:
        last = self.at(revision)
        return self.commits[self.commits.index(last) :: -1] if last else []


@dataclass
class Fault:
    """What happens to the next `times` requests of this method whose path holds `path`."""

    method: str
    path: str
    times: int = 1
    status: int | None = None
    """The answer; None closes the connection in the middle of the request, as if the line had broken."""
    after: bool = False
    """The line breaks only when all is done, so that the client never hears of it."""


class Refusal(Exception):
    """An answer other than success."""

    def __init__(self, status: int, message: str, code: str | None = None, commit: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.commit = status, code, commit


class HubServer:
    """The Hub. Use it as a context manager; `endpoint` is what HF_ENDPOINT has to be."""

    def __init__(self, tokens: dict[str, str]) -> None:
        self.tokens = tokens
        self.repos: dict[tuple[str, str], Repo] = {}
        self.large_files: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.lock = threading.RLock()
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        # Another host name for the same machine, as the Hub serves large files from another host.
        self.storage = f"http://localhost:{self.port}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def model(self, name: str) -> Repo:
        return self.repos["model", name]

    def create(self, kind: str, name: str, private: bool = False) -> Repo:
        return self.repos.setdefault((kind, name), Repo(kind, name, private))

    def asked(self, method: str, part: str) -> list[str]:
        """The paths of requests so far that hold a part."""
        return [path for used, path in self.requests if used == method and part in path]

    @contextmanager
    def failing(self, fault: Fault) -> Iterator[Fault]:
        """Have requests fail while the context lasts."""
        self.faults.append(fault)
        try:
            yield fault
        finally:
            self.faults.remove(fault)


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _serve(self) -> None:
        self.hub.requests.append((self.command, self.path))
        fault = self._fault()
        if fault is not None and fault.status is None and not fault.after:
            self.rfile.read(min(int(self.headers.get("Content-Length", 0)), 1000))
            return self._hang_up()
        body = self._body()
        self._is_lost = fault is not None and fault.after
        try:
            if fault is not None and fault.status is not None:
                raise Refusal(fault.status, "out of order")
            with self.hub.lock:
                self._route(body)
        except Refusal as refusal:
            headers = {"X-Error-Message": str(refusal)}
            headers |= {"X-Error-Code": refusal.code} if refusal.code else {}
            headers |= {"X-Repo-Commit": refusal.commit} if refusal.commit else {}
            self._answer(json.dumps({"error": str(refusal)}).encode(), refusal.status, headers)

    def _fault(self) -> Fault | None:
        for fault in self.hub.faults:
            if fault.times and fault.method == self.command and fault.path in self.path:
                fault.times -= 1
                return fault
        return None

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        if self._is_lost:
            return self._hang_up()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, value: object, status: int = 200) -> None:
        self._answer(json.dumps(value).encode(), status, {"Content-Type": "application/json"})

    # Who asks, and for what

    @property
    def user(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.hub.tokens:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return self.hub.tokens.get(token)

    def _writer(self, name: str) -> None:
        if self.user is None:
            raise Refusal(401, "Invalid username or password.")
        if name.split("/")[0] != self.user:
            raise Refusal(403, f"You do not have the rights to write to {name}")

    def _repo(self, kind: str, name: str) -> Repo:
        repo = self.hub.repos.get((kind, name))
        owner = name.split("/")[0]
        if repo is None or (repo.private and self.user != owner):
            # The Hub does not tell a stranger whether a private repository exists.
            raise Refusal(404 if self.user else 401, "Repository not found", "RepoNotFound")
        return repo

    def _commit(self, repo: Repo, revision: str) -> Commit:
        commit = repo.at(revision)
        if commit is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def _route(self, body: bytes) -> None:  # noqa: C901 - a table of routes
        address = urlsplit(self.path)
        parts = [unquote(part) for part in address.path.strip("/").split("/")]
        match (self.command, *parts):
            case ("POST", "api", "repos", "create"):
                self._create(json.loads(body))
            case ("POST", "api", "validate-yaml"):
                self._validate_card(json.loads(body))
            case ("GET", "api", "whoami-v2"):
                if self.user is None:
                    raise Refusal(401, "Invalid username or password.")
                self._json({"type": "user", "name": self.user, "orgs": [], "auth": {"type": "access_token"}})
            case (_, "api", ("models" | "datasets") as kinds, owner, name, *rest):
                self._api(kinds[:-1], f"{owner}/{name}", rest, body)
            case ("POST", *prefix, owner, name, "info", "lfs", "objects", "batch"):
                kind = "dataset" if prefix else "model"
                self._announce(self._repo(kind, f"{owner}/{name.removesuffix('.git')}"), json.loads(body))
            case ("PUT", "large-files", sha256):
                self._store(sha256, body)
            case (("GET" | "HEAD"), "large-files", sha256):
                if "Authorization" in self.headers:
                    raise Refusal(400, "A token was sent to the storage, which is another host")
                if parse_qs(address.query).get("signature") != [_signature(sha256)]:
                    raise Refusal(403, "The address is not signed")
                self._send_file(self.hub.large_files[sha256], {"ETag": f'"{sha256}"'})
            case (("GET" | "HEAD"), "datasets", owner, name, "resolve", revision, *path):
                self._resolve(self._repo("dataset", f"{owner}/{name}"), revision, "/".join(path))
            case (("GET" | "HEAD"), owner, name, "resolve", revision, *path):
                self._resolve(self._repo("model", f"{owner}/{name}"), revision, "/".join(path))
            case _:
                raise Refusal(404, f"This Hub has no {self.command} {self.path}")

    def _api(self, kind: str, name: str, rest: list[str], body: bytes) -> None:  # noqa: C901 - a table of routes
        repo = self._repo(kind, name)
        match (self.command, *rest):
            case ("GET",):
                self._describe(repo, self._commit(repo, "main"))
            case ("GET", "revision", revision):
                self._describe(repo, self._commit(repo, revision))
            case ("GET", "tree", revision, *folder):
                recursive = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() == "true"
                self._json(_tree(self._commit(repo, revision), "/".join(folder), recursive))
            case ("POST", "paths-info", revision):
                paths = json.loads(body)["paths"] if body[:1] == b"{" else parse_qs(body.decode()).get("paths", [])
                files = self._commit(repo, revision).files
                self._json([_file_entry(path, files[path]) for path in paths if path in files])
            case ("GET", "refs"):
                branches, tags = (
                    [{"name": ref, "ref": f"refs/{folder}/{ref}", "targetCommit": oid} for ref, oid in refs.items()]
                    for folder, refs in (("heads", repo.branches), ("tags", repo.tags))
                )
                self._json({"branches": branches, "tags": tags, "converts": [], "pullRequests": []})
            case ("GET", "commits", revision):
                self._commit(repo, revision)
                date = "2026-01-01T00:00:00.000Z"
                self._json(
                    [
                        {"id": c.oid, "title": c.message, "message": "", "date": date, "authors": []}
                        for c in repo.history(revision)
                    ]
                )
            case ("POST", "preupload", revision):
                self._writer(name)
                commit = self._commit(repo, revision)
                self._json({"files": [_upload_mode(file, commit) for file in json.loads(body)["files"]]})
            case ("POST", "commit", branch):
                self._writer(name)
                self._take_commit(repo, branch, body)
            case ("POST", "branch", branch):
                self._writer(name)
                if branch in repo.branches:
                    raise Refusal(409, "Reference already exists")
                repo.branches[branch] = self._commit(repo, json.loads(body or b"{}").get("startingPoint", "main")).oid
                self._json({})
            case ("POST", "tag", revision):
                self._writer(name)
                tag = json.loads(body)["tag"]
                if tag in repo.tags:
                    raise Refusal(409, "Tag reference exists already")
                repo.tags[tag] = self._commit(repo, revision).oid
                self._json({})
            case _:
                raise Refusal(404, f"This Hub has no {self.command} {self.path}")

    # What is done

    def _create(self, wanted: dict) -> None:
        if self.user is None:
            raise Refusal(401, "Invalid username or password.")
        name = f"{wanted.get('organization') or self.user}/{wanted['name']}"
        self._writer(name)
        kind = wanted.get("type") or "model"
        url = f"{self.hub.endpoint}/{'datasets/' if kind == 'dataset' else ''}{name}"
        if (kind, name) in self.hub.repos:
            return self._json({"url": url, "error": "You already created this repo"}, 409)
        private = wanted.get("private") or wanted.get("visibility") == "private"  # the older client says `private`
        self.hub.create(kind, name, bool(private))
        self._json({"url": url, "name": name})

    def _validate_card(self, wanted: dict) -> None:
        head = wanted["content"].split("---\n")
        try:
            fields = yaml.safe_load(head[1]) if len(head) > 2 else {}
            errors = [] if isinstance(fields, dict) else [{"message": "metadata must be a mapping"}]
        except yaml.YAMLError as error:
            errors = [{"message": str(error)}]
        self._json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def _describe(self, repo: Repo, commit: Commit) -> None:
        self._json(
            {
                "id": repo.name,
                "modelId": repo.name,
                "sha": commit.oid,
                "private": repo.private,
                "disabled": False,
                "gated": False,
                "downloads": 0,
                "likes": 0,
                "tags": [],
                "siblings": [{"rfilename": path} for path in commit.files],
                "lastModified": "2026-01-01T00:00:00.000Z",
                "createdAt": "2026-01-01T00:00:00.000Z",
            }
        )

    def _announce(self, repo: Repo, wanted: dict) -> None:
        self._writer(repo.name)
        objects = []
        for item in wanted["objects"]:
            answer = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.hub.large_files:
                answer["actions"] = {"upload": {"href": f"{self.hub.endpoint}/large-files/{item['oid']}"}}
            objects.append(answer)
        self._json({"transfer": "basic", "objects": objects})

    def _store(self, sha256: str, body: bytes) -> None:
        if hashlib.sha256(body).hexdigest() != sha256:
            raise Refusal(400, "The content does not have the announced sha256")
        self.hub.large_files[sha256] = body
        self._answer(b"")

    def _take_commit(self, repo: Repo, branch: str, body: bytes) -> None:
        if branch not in repo.branches:
            raise Refusal(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        files, message = dict(self._commit(repo, branch).files), ""
        for line in body.decode().splitlines():
            item = json.loads(line)
            value = item["value"]
            match item["key"]:
                case "header":
                    message = value["summary"]
                    if value.get("parentCommit", repo.branches[branch]) != repo.branches[branch]:
                        raise Refusal(412, "The branch has moved on since the parent commit")
                case "file":
                    files[value["path"]] = Blob(base64.b64decode(value["content"]), False)
                case "lfsFile":
                    if value["oid"] not in self.hub.large_files:
                        raise Refusal(400, f"{value['path']} points to a file that was never uploaded")
                    files[value["path"]] = Blob(self.hub.large_files[value["oid"]], True)
                case "deletedFile":
                    if files.pop(value["path"], None) is None:
                        raise Refusal(404, f"There is no {value['path']} to delete", "EntryNotFound")
                case other:
                    raise Refusal(400, f"This Hub cannot do {other}")
        commit = repo.commit(branch, message, files)
        url = f"{self.hub.endpoint}/{repo.name}/commit/{commit.oid}"
        self._json({"success": True, "commitOid": commit.oid, "commitUrl": url, "hookOutput": ""})

    def _resolve(self, repo: Repo, revision: str, path: str) -> None:
        commit = self._commit(repo, revision)
        if path not in commit.files:
            raise Refusal(404, "Entry not found", "EntryNotFound", commit.oid)
        blob = commit.files[path]
        headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{blob.etag}"'}
        if not blob.is_large:
            return self._send_file(blob.content, headers)
        self.hub.large_files.setdefault(blob.sha256, blob.content)
        headers |= {
            "Location": f"{self.hub.storage}/large-files/{blob.sha256}?signature={_signature(blob.sha256)}",
            "X-Linked-ETag": f'"{blob.etag}"',
            "X-Linked-Size": str(len(blob.content)),
        }
        self._answer(b"", 302, headers)

    def _send_file(self, content: bytes, headers: dict[str, str]) -> None:
        wanted = self.headers.get("Range", "")
        if not wanted.startswith("bytes="):
            return self._answer(content, 200, {**headers, "Accept-Ranges": "bytes"})
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        begin, end = int(first), min(int(last) + 1 if last else len(content), len(content))
        if begin >= len(content):
            return self._answer(b"", 416, {**headers, "Content-Range": f"bytes */{len(content)}"})
        place = f"bytes {begin}-{end - 1}/{len(content)}"
        self._answer(content[begin:end], 206, {**headers, "Content-Range": place})


def _signature(sha256: str) -> str:
    return hashlib.sha256(b"signed " + sha256.encode()).hexdigest()[:16]


def _upload_mode(file: dict, commit: Commit) -> dict:
    sample = base64.b64decode(file["sample"])
    is_large = file["path"].endswith(LARGE_SUFFIXES) or file["size"] > LARGE_BYTES or b"\0" in sample
    known = commit.files.get(file["path"])
    return {
        "path": file["path"],
        "uploadMode": "lfs" if is_large else "regular",
        "shouldIgnore": False,
        "oid": known.etag if known else None,
    }


def _file_entry(path: str, blob: Blob) -> dict:
    entry = {"type": "file", "path": path, "size": len(blob.content), "oid": blob.oid}
    if blob.is_large:
        entry["lfs"] = {"oid": blob.sha256, "size": len(blob.content), "pointerSize": 134}
    return entry


def _tree(commit: Commit, folder: str, recursive: bool) -> list[dict]:
    prefix = f"{folder}/" if folder else ""
    inside = {path: blob for path, blob in commit.files.items() if path.startswith(prefix)}
    if folder and not inside:
        raise Refusal(404, f"{folder} does not exist", "EntryNotFound", commit.oid)
    folders = {prefix + path.removeprefix(prefix).split("/")[0] for path in inside if "/" in path.removeprefix(prefix)}
    entries = [
        {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0}
        for path in sorted(folders)
    ]
    return entries + [
        _file_entry(path, blob)
        for path, blob in sorted(inside.items())
        if recursive or "/" not in path.removeprefix(prefix)
    ]
