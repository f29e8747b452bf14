"""A stand-in of the W&B service on this machine: what the real client of the lock file asks for in a run.

The client is a binary that sends GraphQL to /graphql, history and logs to /files/.../file_stream, and files by PUT to
the addresses it was given. An operation that is not known here fails the request and is listed in `unknown`.
"""

import contextlib
import gzip
import http.server
import json
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from urllib.parse import quote, unquote

LAST = {"endCursor": None, "hasNextPage": False}  # page of a list
HISTORY, SUMMARY, LOG = "wandb-history.jsonl", "wandb-summary.json", "output.log"


@dataclass
class Run:
    """What has arrived of a run: names are those of the service.

    fields  group, tags, notes, job type, display name and others of the last mutation that gave them
    lines   file -> lines of the stream, by their position
    files   name -> content
    exit    exit status, once it has finished
    """

    fields: dict = field(default_factory=dict)
    config: dict = field(default_factory=dict)
    lines: dict[str, dict[int, str]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    starts: int = 0
    exit: int | None = None

    @property
    def history(self) -> list[dict]:
        lines = self.lines.get(HISTORY, {})
        return [json.loads(lines[position]) for position in sorted(lines)]

    @property
    def summary(self) -> dict:
        lines = self.lines.get(SUMMARY, {})
        return json.loads(lines[max(lines)]) if lines else {}


class Service:
    """Runs by name, artifacts by name -> {file: content}, and types of artifacts by name."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.artifacts: dict[str, dict[str, bytes]] = {}
        self.types: dict[str, str] = {}
        self.views: dict[str, dict] = {}  # workspaces and reports by their type
        self.unknown: list[str] = []
        self.url = ""

    def graphql(self, operation: str, given: dict) -> dict | None:
        """The data of an answer; None for an operation that is not known."""
        method = getattr(self, operation, None)
        if method is None:
            self.unknown.append(f"{operation} {json.dumps(given)}")
            return None
        return method(**given)

    def Viewer(self, **_):
        viewer = {"id": "v", "entity": "me", "username": "me", "email": "", "flags": "{}", "teams": {"edges": []}}
        return {"viewer": viewer}

    def ServerFeaturesQuery(self, **_):
        return {"serverInfo": {"features": []}}

    def OrganizationCoreWeaveOrganizationID(self, **_):
        return {"entity": {"organization": None}}

    def RunResumeStatus(self, name, project, **_):
        model = {"id": "p", "name": project, "entity": {"id": "e", "name": "me"}, "bucket": None}
        if (run := self.runs.get(name)) is not None:
            tail = [json.dumps(row) for row in run.history[-1:]]
            model["bucket"] = {
                "id": name,
                "name": name,
                "displayName": run.fields.get("displayName"),
                "summaryMetrics": json.dumps(run.summary),
                "logLineCount": len(run.lines.get(LOG, {})),
                "historyLineCount": len(run.history),
                "eventsLineCount": len(run.lines.get("wandb-events.jsonl", {})),
                "historyTail": json.dumps(tail),
                "eventsTail": "[]",
                "config": json.dumps(run.config),
                "tags": run.fields.get("tags", []),
                "notes": run.fields.get("notes"),
                "wandbConfig": json.dumps({"t": 1}),
            }
        return {"model": model}

    def UpsertBucket(self, name, project, config=None, **given):
        inserted = name not in self.runs
        run = self.runs.setdefault(name, Run())
        run.fields |= {key: value for key, value in given.items() if value is not None} | {"project": project}
        run.config |= json.loads(config or "{}")
        bucket = {"id": name, "name": name, "displayName": run.fields.get("displayName"), "description": None}
        bucket |= {"config": json.dumps(run.config), "sweepName": None, "historyLineCount": len(run.history)}
        bucket["project"] = {"id": "p", "name": project, "entity": {"id": "e", "name": "me"}}
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def CreateRunFiles(self, run, files, **_):
        urls = [{"name": name, "uploadUrl": f"{self.url}/run/{run}/{quote(name)}"} for name in files]
        return {"createRunFiles": {"runID": run, "uploadHeaders": [], "files": urls}}

    def GetDefaultEntity(self, **_):
        return {"viewer": {"id": "v", "entity": "me"}}

    def Runs(self, project, **_):
        empty = dict.fromkeys(("sweepName", "group", "jobType", "commit", "description", "notes"))
        nodes = [
            {"id": name, "name": name, "displayName": name, "state": "finished", "tags": [], "readOnly": False}
            | {"createdAt": "2026-01-01T00:00:00", "heartbeatAt": "2026-01-01T00:00:00", "projectId": 1}
            | {"historyLineCount": len(run.history), "user": {"name": "me", "username": "me"}, **empty}
            for name, run in self.runs.items()
        ]
        runs = {"edges": [{"node": node, "cursor": node["id"]} for node in nodes], "pageInfo": LAST}
        return {"project": {"internalId": "1", "runCount": len(nodes), "readOnly": False, "runs": runs}}

    def RunFiles(self, name, fileNames, **_):
        nodes = [
            {"id": file, "name": file, "url": f"{self.url}/run/{name}/{quote(file)}", "sizeBytes": len(content)}
            | {"directUrl": f"{self.url}/run/{name}/{quote(file)}", "mimetype": "", "updatedAt": "", "md5": ""}
            for file, content in self.runs[name].files.items()
            if file in fileNames
        ]
        files = {"edges": [{"node": node, "cursor": node["id"]} for node in nodes], "pageInfo": LAST}
        return {"project": {"internalId": "1", "run": {"fileCount": len(nodes), "files": files}}}

    def GetProjects(self, entity, **_):
        node = {"id": "p", "name": "lra", "entityName": entity, "createdAt": "", "isBenchmark": False, "user": None}
        return {"models": {"edges": [{"node": node, "cursor": "p"}], "pageInfo": LAST}}

    def upsertView(self, **given):
        self.views[given["type"]] = {**given, "spec": json.loads(given["spec"])}
        project = {"id": "p", "name": given["projectName"], "entityName": given["entityName"]}
        return {"upsertView": {"view": {**given, "id": "view", "project": project}, "inserted": True}}

    UpsertView2 = upsertView

    def ArtifactType(self, **_):
        return {"project": {"artifact": None}}

    def CreateArtifact(self, input):
        name = input["artifactCollectionName"]
        self.artifacts[name] = {}
        self.types[name] = input["artifactTypeName"]
        sequence = {"id": name, "latestArtifact": None}
        return {"createArtifact": {"artifact": {"id": name, "state": "PENDING", "artifactSequence": sequence}}}

    def CreateArtifactManifest(self, artifactID, name, **_):
        file = {"id": "f", "uploadUrl": f"{self.url}/artifact/{artifactID}/{name}", "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": artifactID, "file": file}}}

    def UpdateArtifactManifest(self, artifactManifestID, **_):
        file = {"id": "f", "uploadUrl": f"{self.url}/artifact/{artifactManifestID}/manifest", "uploadHeaders": []}
        return {"updateArtifactManifest": {"artifactManifest": {"id": artifactManifestID, "file": file}}}

    def CreateArtifactFiles(self, input):
        nodes = [
            {
                "storagePath": file["name"],
                "uploadUrl": f"{self.url}/artifact/{file['artifactID']}/{quote(file['name'])}",
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
                "artifact": {"id": file["artifactID"]},
            }
            for file in input["artifactFiles"]
        ]
        return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}

    def CommitArtifact(self, artifactID):
        return {"commitArtifact": {"artifact": {"id": artifactID, "digest": "d"}}}

    def stream(self, name: str, content: dict) -> dict:
        """Lines of the stream of a run."""
        run = self.runs[name]
        for file, chunk in content.get("files", {}).items():
            lines = run.lines.setdefault(file, {})
            lines |= {chunk["offset"] + i: line for i, line in enumerate(chunk["content"])}
        if content.get("complete"):
            run.exit = content["exitcode"]
        return {"limits": {}}

    def put(self, path: str, body: bytes) -> None:
        """A file under an address given before: /run/<name>/<file> or /artifact/<name>/<file>."""
        kind, owner, name = unquote(path).strip("/").split("/", 2)
        (self.runs[owner].files if kind == "run" else self.artifacts[owner])[name] = body

    def get(self, path: str) -> bytes:
        """A file of a run."""
        _, owner, name = unquote(path).strip("/").split("/", 2)
        return self.runs[owner].files[name]


@contextlib.contextmanager
def wandb_server() -> Iterator[Service]:
    """A running stand-in; its address is `url`."""
    service = Service()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            status, answer = 200, {}
            path = PurePosixPath(self.path)
            if self.path == "/graphql":
                request = json.loads(body)
                operation = request.get("operationName") or request["query"].split("(")[0].split("{")[0].split()[-1]
                data = service.graphql(operation, request.get("variables") or {})
                status, answer = (
                    (200, {"data": data}) if data is not None else (400, {"errors": [{"message": operation}]})
                )
            elif path.name == "file_stream":
                answer = service.stream(path.parent.name, json.loads(body))
            elif self.command == "PUT":
                service.put(self.path, body)
            content = service.get(self.path) if self.command == "GET" else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = respond

        def log_message(self, *arguments):
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request, client_address):
            # a client that has finished drops its open connections
            if not isinstance(sys.exception(), ConnectionError):
                super().handle_error(request, client_address)

    server = Server(("127.0.0.1", 0), Handler)
    service.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
