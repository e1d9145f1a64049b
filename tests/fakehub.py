"""A Hugging Face hub of a test: the routes of huggingface_hub that push and pull use."""

import base64
import contextlib
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_test"


class Hub:
    """Repositories by (kind, id): files as bytes. Whoever has no token may read public ones."""

    def __init__(self):
        self.repos, self.private, self.asked, self.declared = {}, set(), [], {}
        self.down = False
        self._large = {}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments):
                pass

            def answer(self):
                path = unquote(urlsplit(self.path).path)
                body = self.rfile.read(int(self.headers["Content-Length"] or 0))
                hub.asked.append((self.command, path))
                user = self.headers["Authorization"] == f"Bearer {TOKEN}"
                status, headers, content = hub.route(self.command, path, body, user)
                if not isinstance(content, bytes):
                    content = json.dumps(content).encode()
                    headers = {"Content-Type": "application/json"} | headers
                self.send_response(status)
                for key, value in ({"Content-Length": str(len(content))} | headers).items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_HEAD = do_POST = do_PUT = answer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        serve = self._server.serve_forever
        threading.Thread(target=serve, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def put(self, repo, files, kind="model"):
        self.repos.setdefault((kind, repo), {}).update(files)

    def sha(self, key):
        text = repr(sorted((n, hashlib.sha1(c).hexdigest()) for n, c in self.repos[key].items()))
        return hashlib.sha1(text.encode()).hexdigest()

    def route(self, method, path, body, user):
        """(status, headers, content) of a request."""
        if self.down:
            return 503, {}, {"error": "down for maintenance"}
        if path == "/api/repos/create":
            asked = json.loads(body)
            if not user:
                return 401, {}, {"error": "Invalid username or password."}
            owner = asked.get("organization") or "me"
            key = asked.get("type", "model"), f"{owner}/{asked['name']}"
            if owner not in ("me", "team"):
                return 403, {}, {"error": f"You don't have the rights to create {key[1]}"}
            url = {"url": f"{self.address}/{key[1]}", "name": key[1]}
            if key in self.repos:
                return 409, {}, url | {"error": "You already created this model repo"}
            self.repos[key] = {}
            if asked.get("visibility") == "private":
                self.private.add(key)
            return 200, {}, url
        if path == "/api/validate-yaml":
            return 200, {}, {"errors": [], "warnings": []}
        if found := re.fullmatch(r"/large/(\w+)", path):
            self._large[found[1]] = body
            assert hashlib.sha256(body).hexdigest() == found[1]
            return 200, {}, {}
        if found := re.fullmatch(r"/(.*)\.git/info/lfs/objects/batch", path):
            return 200, {}, self.batch(json.loads(body))
        api = r"/api/(model|dataset)s/([^/]+/[^/]+)(?:/(preupload|commit|revision)/(.+))?"
        file = r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)"
        if found := re.fullmatch(api, path):
            key, action = (found[1], found[2]), found[3]
        elif found := re.fullmatch(file, path):
            key, action = ("dataset" if found[1] else "model", found[2]), "resolve"
        else:
            return 404, {}, {"error": f"no such route: {method} {path}"}
        if key not in self.repos or (key in self.private and not user):
            return 401, {"X-Error-Code": "RepoNotFound"}, {"error": "Repository not found"}
        if action == "resolve":
            return self.resolve(key, found[3], found[4])
        if action == "preupload":
            modes = [
                {
                    "path": f["path"],
                    "uploadMode": "lfs"
                    if f["path"].endswith(("safetensors", "gif"))
                    else "regular",
                    "shouldIgnore": False,
                }
                for f in json.loads(body)["files"]
            ]
            return 200, {}, {"files": modes}
        if action == "commit":
            return 200, {}, self.commit(key, body)
        if found[4] not in (None, "main", self.sha(key)):
            return 404, {"X-Error-Code": "RevisionNotFound"}, {"error": "Invalid rev id"}
        sizes = {n: self.declared.get(n, len(c)) for n, c in self.repos[key].items()}
        files = [{"rfilename": n, "size": size, "blobId": "0"} for n, size in sizes.items()]
        about = {"id": key[1], "sha": self.sha(key), "private": key in self.private, "tags": []}
        return 200, {}, about | {"siblings": files, "downloads": 0, "likes": 0}

    def resolve(self, key, revision, name):
        content = self.repos[key].get(name)
        if revision not in ("main", self.sha(key)):
            return 404, {"X-Error-Code": "RevisionNotFound"}, {"error": "Invalid rev id"}
        commit = {"X-Repo-Commit": self.sha(key)}
        if content is None:
            return 404, commit | {"X-Error-Code": "EntryNotFound"}, {"error": "Entry not found"}
        return 200, commit | {"ETag": f'"{hashlib.sha1(content).hexdigest()}"'}, content

    def batch(self, asked):
        """Git LFS: where the large files go."""
        objects = [
            {
                "oid": o["oid"],
                "size": o["size"],
                "actions": {"upload": {"href": f"{self.address}/large/{o['oid']}"}},
            }
            for o in asked["objects"]
        ]
        return {"transfer": "basic", "objects": objects}

    def commit(self, key, body):
        """The lines of a commit: files as base64, large ones by their checksum."""
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                assert value["encoding"] == "base64"
                self.repos[key][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                content = self._large[value["oid"]]
                assert len(content) == value["size"]
                self.repos[key][value["path"]] = content
        sha = self.sha(key)
        url = f"{self.address}/{key[1]}/commit/{sha}"
        return {"success": True, "commitUrl": url, "commitOid": sha, "hookOutput": ""}


@contextlib.contextmanager
def serving(monkeypatch, folder, token=TOKEN):
    """A hub that the library asks in this process, with a cache of its own."""
    from huggingface_hub import constants

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_TOKEN", token)
    hub = Hub()
    for name, value in {
        "ENDPOINT": hub.address,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(folder),
        "HF_TOKEN_PATH": str(folder / "no-token"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,  # large files go the way of Git LFS
        "HF_HUB_DISABLE_PROGRESS_BARS": True,
    }.items():
        monkeypatch.setattr(constants, name, value)
    try:
        yield hub
    finally:
        hub.close()
