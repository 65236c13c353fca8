"""How content moves: small files inside commits, large ones by LFS to and from a store with an address of its own."""

from __future__ import annotations

import base64
import hashlib
from fnmatch import fnmatch
from math import ceil
from typing import TYPE_CHECKING, Any

from .api import routes
from .storage import Blob, Commit, HubError
from .wire import Request, Response, Routes, json_response

if TYPE_CHECKING:
    from .server import HubServer

LARGE = 10 * 2**20  # bytes; the Hub takes no larger file inside a commit
PART = 5 * 2**20  # bytes; a larger file goes up in several requests

store_routes = Routes()


@routes("POST", "/api/{repo}/preupload/{revision}")
def choose_upload_modes(hub: HubServer, request: Request, repo: str, revision: str) -> Response:
    pull_request = request.query.get("create_pr") == "1"
    commit = hub.repository(repo, request.user, "propose" if pull_request else "write").find(revision)
    asked = request.json()
    ignored = asked.get("gitIgnore") or commit.files.get(".gitignore", Blob(b"")).content.decode()
    return json_response({"files": [_upload_mode(commit, file, ignored.splitlines()) for file in asked["files"]]})


def _upload_mode(commit: Commit, file: dict[str, Any], ignored: list[str]) -> dict[str, Any]:
    """Large are the files that .gitattributes names, those that are long, and those that are not text."""
    attributes = commit.files.get(".gitattributes", Blob(b"")).content.decode().splitlines()
    patterns = [line.split()[0] for line in attributes if "filter=lfs" in line]
    name = file["path"].rsplit("/", 1)[-1]
    named = any(fnmatch(name, pattern) or fnmatch(file["path"], pattern) for pattern in patterns)
    large = named or file["size"] > LARGE or b"\0" in base64.b64decode(file["sample"])
    there = commit.files.get(file["path"])
    return {
        "path": file["path"],
        "uploadMode": "lfs" if large else "regular",
        "shouldIgnore": any(fnmatch(name, pattern) for pattern in ignored),
        "oid": there.etag if there else None,
    }


@routes("POST", "/{address}.git/info/lfs/objects/batch")
def plan_uploads(hub: HubServer, request: Request, address: str) -> Response:
    """Where to send what; never "xet", so that every client stays with plain HTTP."""
    hub.repository(address, request.user, "propose")
    objects = []
    for asked in request.json()["objects"]:
        plan = {"oid": asked["oid"], "size": asked["size"]}
        if asked["oid"] not in hub.large_files:
            verify = {"href": f"{hub.endpoint}/{address}.git/info/lfs/objects/verify"}
            plan["actions"] = {"upload": _upload_action(hub, **plan), "verify": verify}
        objects.append(plan)
    return json_response({"transfer": "basic", "objects": objects})


def _upload_action(hub: HubServer, oid: str, size: int) -> dict[str, Any]:
    if size <= PART:
        return {"href": f"{hub.store_endpoint}/{oid}"}
    parts = {str(number): f"{hub.store_endpoint}/{oid}?part={number}" for number in range(1, ceil(size / PART) + 1)}
    return {"href": f"{hub.endpoint}/api/complete_multipart", "header": {"chunk_size": str(PART), **parts}}


@store_routes("PUT", "/{name}")
def receive(hub: HubServer, request: Request, name: str) -> Response:
    hub.faults.refuse("upload")
    if "part" not in request.query:
        return _keep(hub, name, request.body)
    hub.parts[name, int(request.query["part"])] = request.body
    return Response(headers={"ETag": f'"{hashlib.md5(request.body).hexdigest()}"'})


@routes("POST", "/api/complete_multipart")
def join_parts(hub: HubServer, request: Request) -> Response:
    asked = request.json()
    parts = [hub.parts.pop((asked["oid"], part["partNumber"])) for part in asked["parts"]]
    return _keep(hub, asked["oid"], b"".join(parts))


def _keep(hub: HubServer, oid: str, content: bytes) -> Response:
    received = hashlib.sha256(content).hexdigest()
    if received != oid:
        raise HubError(400, f"Expected content with SHA-256 {oid}, received {received}")
    hub.large_files[oid] = content
    return Response()


@routes("POST", "/{address}.git/info/lfs/objects/verify")
def verify_upload(hub: HubServer, request: Request, address: str) -> Response:
    hub.repository(address, request.user, "propose")
    asked = request.json()
    if len(hub.large_files.get(asked["oid"], b"")) != asked["size"]:
        raise HubError(404, f"Expected {asked['size']} bytes of {asked['oid']}")
    return Response()


@routes("GET", "/{address}/resolve/{revision}/{path}")
def resolve(hub: HubServer, request: Request, address: str, revision: str, path: str) -> Response:
    commit = hub.commit(hub.repository(address, request.user), revision)
    headers = {"X-Repo-Commit": commit.id}
    blob = commit.files.get(path)
    if blob is None:
        raise HubError(404, f"{path} does not exist on {revision}", code="EntryNotFound", headers=headers)
    if not blob.lfs:
        return _deliver(hub, request, blob.content, {**headers, "ETag": f'"{blob.etag}"'})
    hub.large_files.setdefault(blob.sha256, blob.content)  # where a test made the commit, nobody has uploaded it
    headers |= {"X-Linked-Etag": f'"{blob.etag}"', "X-Linked-Size": str(len(blob.content))}
    return Response(302, headers={**headers, "Location": f"{hub.store_endpoint}/{blob.sha256}"})


@store_routes("GET", "/{name}")
def send(hub: HubServer, request: Request, name: str) -> Response:
    if name not in hub.large_files:
        raise HubError(404, f"No content has the SHA-256 {name}")
    return _deliver(hub, request, hub.large_files[name], {"ETag": f'"{name}"'})


def _deliver(hub: HubServer, request: Request, content: bytes, headers: dict[str, str]) -> Response:
    """All of the content, or from the first byte that a Range names."""
    headers = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream", **headers}
    if request.method == "HEAD":
        return Response(body=content, headers=headers)
    start, _, end = request.headers.get("Range", "").removeprefix("bytes=").partition("-")
    if not start:
        return Response(body=content, headers=headers, cut=hub.faults.cut(len(content)))
    wanted = slice(int(start), int(end) + 1 if end else len(content))
    if wanted.start >= len(content):
        raise HubError(416, f"Expected a range within {len(content)} bytes, got {request.headers['Range']}")
    last = min(wanted.stop, len(content)) - 1
    headers["Content-Range"] = f"bytes {start}-{last}/{len(content)}"
    return Response(206, content[wanted], headers, hub.faults.cut(last + 1 - wanted.start))
