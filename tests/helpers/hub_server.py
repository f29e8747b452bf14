"""A stand-in of the Hugging Face Hub on this machine: what the real client asks for when it uploads or downloads."""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

TOKEN = "hf_made_up_token"


class Hub:
    """Repositories in memory: name -> {"private", "commits": commit -> {file: content}}; `cut` and `flip` do damage.

    cut   bytes to leave out at the end of a download
    flip  position from the end of a byte to change in a download
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict] = {}
        self.uploaded: dict[str, bytes] = {}  # large files by their SHA-256
        self.cut, self.flip = 0, 0
        self.url = ""

    def add(self, name: str, files: dict[str, bytes], private: bool = False) -> str:
        """A new commit on top of the last one; returns its hash."""
        repository = self.repositories.setdefault(name, {"private": private, "commits": {}})
        before = next(reversed(repository["commits"].values()), {})
        commit = hashlib.sha1(repr((len(repository["commits"]), sorted(files))).encode()).hexdigest()
        repository["commits"][commit] = before | files
        return commit

    def answer(self, method: str, path: str, body: bytes, token: str | None) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and content."""
        if found := re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", path):
            return self.download(method, *found.groups(), token)
        if path.startswith("/lfs/"):
            assert hashlib.sha256(body).hexdigest() == path[5:]
            self.uploaded[path[5:]] = body
            return 200, {}, b""
        if token != TOKEN:
            return (
                401,
                {"X-Error-Message": "Invalid username or password."},
                b'{"error": "Invalid username or password."}',
            )
        content = [json.loads(line) for line in body.splitlines()] if body else [{}]
        return self.call(path, content)

    def call(self, path: str, lines: list[dict]) -> tuple[int, dict[str, str], bytes]:
        """An API call of a user with the right token; lines: of its content."""
        if path == "/api/repos/create":
            name = f"{lines[0]['organization']}/{lines[0]['name']}"
            if name.startswith("other/"):
                return refusal(403, "", "You don't have the rights to create a model under this namespace")
            if name in self.repositories:
                return 409, {}, json.dumps({"url": f"{self.url}/{name}"}).encode()
            self.add(name, {}, private=lines[0].get("visibility") == "private")
            return success({"url": f"{self.url}/{name}"})
        if path == "/api/validate-yaml":
            assert lines[0]["content"].startswith("---\n")
            return success({"errors": [], "warnings": []})
        if found := re.fullmatch(r"/([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", path):
            objects = [
                {**entry, "actions": {"upload": {"href": f"{self.url}/lfs/{entry['oid']}"}}}
                for entry in lines[0]["objects"]
            ]
            return success({"transfer": "basic", "objects": objects})
        found = re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(?:/(preupload|commit)/main)?", path)
        assert found, path
        name, action = found.groups()
        if name not in self.repositories:
            return refusal(404, "RepoNotFound", "Repository not found")
        if action == "preupload":
            large = [file["path"].endswith(".safetensors") for file in lines[0]["files"]]
            modes = [{"uploadMode": "lfs" if big else "regular", "shouldIgnore": False} for big in large]
            return success({"files": [file | mode for file, mode in zip(lines[0]["files"], modes, strict=True)]})
        if action == "commit":
            files = {}
            for line in lines[1:]:
                value = line["value"]
                large = line["key"] == "lfsFile"
                files[value["path"]] = self.uploaded[value["oid"]] if large else base64.b64decode(value["content"])
            commit = self.add(name, files)
            return success({"commitUrl": f"{self.url}/{name}/commit/{commit}", "commitOid": commit})
        private = self.repositories[name]["private"]
        return success({"id": name, "private": private, "tags": [], "siblings": []})

    def download(self, method: str, name: str, revision: str, file: str, token: str | None):
        repository = self.repositories.get(name)
        if repository is None or (repository["private"] and token != TOKEN):
            return refusal(401 if token is None else 404, "RepoNotFound", "Repository not found")
        commits = repository["commits"]
        commit = next(reversed(commits)) if revision == "main" else unquote(revision)
        if commit not in commits:
            return refusal(404, "RevisionNotFound", "Invalid rev id")
        if file not in commits[commit]:
            return refusal(404, "EntryNotFound", "Entry not found")
        content = commits[commit][file]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        headers["X-Linked-Size"] = str(len(content))
        if method == "GET" and self.flip:
            content = content[: -self.flip] + bytes([content[-self.flip] ^ 1]) + content[len(content) - self.flip + 1 :]
        return 200, headers, content[: len(content) - self.cut] if method == "GET" else content


def success(content: dict) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(content).encode()


def refusal(status: int, code: str, message: str) -> tuple[int, dict[str, str], bytes]:
    headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
    return status, headers, json.dumps({"error": message}).encode()


@contextlib.contextmanager
def hub_server() -> Iterator[Hub]:
    """A running stand-in; its address is `url`."""
    hub = Hub()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
            status, headers, content = hub.answer(self.command, urlsplit(self.path).path, body, token)
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(content))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_HEAD = do_POST = do_PUT = respond

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
