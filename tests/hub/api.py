"""What a Hub answers below /api: who asks, repositories, references, listings and commits."""

from __future__ import annotations

import base64
import json
import re
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from . import card
from .storage import Blob, Commit, Delete, HubError, Repository, Write
from .wire import Request, Response, Routes, json_response

if TYPE_CHECKING:
    from .server import HubServer

routes = Routes()


@routes("GET", "/api/whoami-v2")
def who_am_i(hub: HubServer, request: Request) -> Response:
    if request.user is None:
        raise HubError(401, "Invalid username or password.")
    role = {"type": "access_token", "accessToken": {"displayName": "test", "role": "write"}}
    return json_response({"type": "user", "name": request.user, "fullname": request.user, "orgs": [], "auth": role})


@routes("GET", "/api/agent-harnesses")
def agent_harnesses(hub: HubServer, request: Request) -> Response:
    """The client asks once for each cache, to describe itself in its user agent."""
    return json_response({"standardEnvVars": [], "harnesses": {}})


@routes("POST", "/api/validate-yaml")
def validate_card(hub: HubServer, request: Request) -> Response:
    errors, warnings = card.validate(request.json()["content"])
    answer = {"errors": [{"message": text} for text in errors], "warnings": [{"message": text} for text in warnings]}
    return json_response(answer, status=400 if errors else 200)


def _own_key(request: Request) -> str:
    """The key of the repository that a request's body names, which must belong to whoever asks."""
    asked = request.json()
    owner = asked.get("organization") or request.user
    if request.user is None or owner != request.user:
        raise HubError(403 if request.user else 401, f"You don't have the rights to change repositories of {owner}")
    return f"{asked.get('type') or 'model'}s/{owner}/{asked['name']}"


@routes("POST", "/api/repos/create")
def create_repository(hub: HubServer, request: Request) -> Response:
    key = _own_key(request)
    if key in hub.repositories:
        raise HubError(409, "You already created this repo", url=hub.url(key))
    asked = request.json()
    private = asked.get("private") or asked.get("visibility") == "private"
    return json_response({"url": hub.url(key), "name": hub.create_repository(key, private).name})


@routes("DELETE", "/api/repos/delete")
def delete_repository(hub: HubServer, request: Request) -> Response:
    repository = hub.repository(_own_key(request), request.user)
    del hub.repositories[repository.key]
    return Response()


@routes("GET", "/api/{repo}")
@routes("GET", "/api/{repo}/revision/{revision}")
def repository_info(hub: HubServer, request: Request, repo: str, revision: str = "main") -> Response:
    repository = hub.repository(repo, request.user)
    commit = hub.commit(repository, revision)
    siblings = [_sibling(path, blob, detailed="blobs" in request.query) for path, blob in sorted(commit.files.items())]
    return json_response({**_describe(repository, commit), "siblings": siblings})


def _sibling(path: str, blob: Blob, detailed: bool) -> dict[str, Any]:
    if not detailed:
        return {"rfilename": path}
    sibling: dict[str, Any] = {"rfilename": path, "size": len(blob.content), "blobId": blob.git_id}
    if blob.lfs:
        sibling["lfs"] = {"sha256": blob.sha256, "size": len(blob.content), "pointerSize": len(blob.pointer)}
    return sibling


def _describe(repository: Repository, commit: Commit) -> dict[str, Any]:
    readme = commit.files.get("README.md", Blob(b""))
    data = card.metadata(readme.content.decode())
    first = next(iter(repository.commits.values()))
    return {
        "id": repository.name,
        "author": repository.owner,
        "sha": commit.id,
        "createdAt": _timestamp(first.date),
        "lastModified": _timestamp(commit.date),
        "private": repository.private,
        "gated": False,
        "disabled": False,
        "tags": data.get("tags") or [],
        "pipeline_tag": data.get("pipeline_tag"),
        "library_name": data.get("library_name"),
        "cardData": data,
    }


def _timestamp(date: datetime) -> str:
    return date.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _file_entry(path: str, blob: Blob) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "oid": blob.git_id, "size": len(blob.content)}
    if blob.lfs:
        entry["lfs"] = {"oid": blob.sha256, "size": len(blob.content), "pointerSize": len(blob.pointer)}
    return entry


def _entries(commit: Commit) -> dict[str, dict[str, Any]]:
    """All folders and files by path; a folder's id is made from its path alone, which no client looks into."""
    folders = {path[: slash.start()] for path in commit.files for slash in re.finditer("/", path)}
    entries = {
        path: {"type": "directory", "path": path, "oid": Blob(path.encode()).git_id, "size": 0} for path in folders
    }
    entries.update({path: _file_entry(path, blob) for path, blob in commit.files.items()})
    return dict(sorted(entries.items()))


@routes("GET", "/api/{repo}/tree/{revision}")
@routes("GET", "/api/{repo}/tree/{revision}/{path}")
def list_tree(hub: HubServer, request: Request, repo: str, revision: str, path: str = "") -> Response:
    entries = _entries(hub.commit(hub.repository(repo, request.user), revision))
    start = f"{path}/" if path else ""
    if path and entries.get(path, {}).get("type") != "directory":
        raise HubError(404, f"{path} does not exist on {revision}", code="EntryNotFound")
    recursive = request.query.get("recursive", "").lower() == "true"
    below = {name: entry for name, entry in entries.items() if name.startswith(start)}
    return json_response([entry for name, entry in below.items() if recursive or "/" not in name[len(start) :]])


@routes("POST", "/api/{repo}/paths-info/{revision}")
def paths_info(hub: HubServer, request: Request, repo: str, revision: str) -> Response:
    entries = _entries(hub.commit(hub.repository(repo, request.user), revision))
    paths = parse_qs(request.body.decode()).get("paths", [])
    return json_response([entries[path.rstrip("/")] for path in paths if path.rstrip("/") in entries])


@routes("GET", "/api/{repo}/refs")
def list_references(hub: HubServer, request: Request, repo: str) -> Response:
    refs = hub.repository(repo, request.user).refs
    answer: dict[str, list[dict[str, str]]] = {"converts": []}
    for place, start in (("branches", "refs/heads/"), ("tags", "refs/tags/"), ("pullRequests", "refs/pr/")):
        answer[place] = [
            {"name": ref.removeprefix(start), "ref": ref, "targetCommit": commit.id}
            for ref, commit in refs.items()
            if ref.startswith(start)
        ]
    return json_response(answer)


@routes("GET", "/api/{repo}/commits/{revision}")
def list_commits(hub: HubServer, request: Request, repo: str, revision: str) -> Response:
    answer = []
    commit: Commit | None = hub.commit(hub.repository(repo, request.user), revision)
    while commit:
        texts = {"title": commit.title, "message": commit.description, "date": _timestamp(commit.date)}
        answer.append({"id": commit.id, "authors": [{"user": commit.author}], **texts})
        commit = commit.parent
    return json_response(answer)


@routes("POST", "/api/{repo}/branch/{name}")
def create_branch(hub: HubServer, request: Request, repo: str, name: str) -> Response:
    start = request.json().get("startingPoint", "main")
    return _create_reference(hub, request, repo, f"refs/heads/{name}", start)


@routes("POST", "/api/{repo}/tag/{revision}")
def create_tag(hub: HubServer, request: Request, repo: str, revision: str) -> Response:
    return _create_reference(hub, request, repo, f"refs/tags/{request.json()['tag']}", revision)


def _create_reference(hub: HubServer, request: Request, repo: str, ref: str, revision: str) -> Response:
    repository = hub.repository(repo, request.user, "write")
    if ref in repository.refs:
        raise HubError(409, f"Reference already exists: {ref}")
    repository.refs[ref] = repository.find(revision)
    return Response()


@routes("DELETE", "/api/{repo}/branch/{name}")
def delete_branch(hub: HubServer, request: Request, repo: str, name: str) -> Response:
    if name == "main":
        raise HubError(403, "Cannot delete the default branch")
    return _delete_reference(hub, request, repo, f"refs/heads/{name}")


@routes("DELETE", "/api/{repo}/tag/{name}")
def delete_tag(hub: HubServer, request: Request, repo: str, name: str) -> Response:
    return _delete_reference(hub, request, repo, f"refs/tags/{name}")


def _delete_reference(hub: HubServer, request: Request, repo: str, ref: str) -> Response:
    if hub.repository(repo, request.user, "write").refs.pop(ref, None) is None:
        raise HubError(404, f"Invalid rev id: {ref}", code="RevisionNotFound")
    return Response()


@routes("POST", "/api/{repo}/commit/{revision}")
def create_commit(hub: HubServer, request: Request, repo: str, revision: str) -> Response:
    pull_request = request.query.get("create_pr") == "1"
    repository = hub.repository(repo, request.user, "propose" if pull_request else "write")
    hub.faults.refuse("commit")
    lines = [json.loads(line) for line in request.body.splitlines()]
    header = next(line["value"] for line in lines if line["key"] == "header")
    ref, commit = repository.commit(
        revision,
        [_operation(hub, line["key"], line["value"]) for line in lines if line["key"] != "header"],
        title=header["summary"],
        description=header.get("description", ""),
        author=request.user,
        parent=header.get("parentCommit"),
        pull_request=pull_request,
    )
    url = hub.url(repository.key)
    answer = {"success": True, "commitOid": commit.id, "commitUrl": f"{url}/commit/{commit.id}"}
    if pull_request:
        answer["pullRequestUrl"] = f"{url}/discussions/{ref.removeprefix('refs/pr/')}"
    return json_response(answer)


def _operation(hub: HubServer, key: str, value: dict[str, Any]) -> Write | Delete:
    if key == "file":
        return Write(value["path"], Blob(base64.b64decode(value["content"])))
    if key == "lfsFile":
        if value["oid"] not in hub.large_files:
            raise HubError(400, f"{value['path']} points to content that was never uploaded: {value['oid']}")
        return Write(value["path"], Blob(hub.large_files[value["oid"]], lfs=True))
    if key in ("deletedFile", "deletedFolder"):
        return Delete(value["path"], folder=key == "deletedFolder")
    raise HubError(400, f"Expected file, lfsFile, deletedFile or deletedFolder, got {key}")
