"""Repositories as a Hub keeps them: commits never change, content is named by its hash. Nothing here speaks HTTP."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property
from threading import Lock
from types import MappingProxyType

LARGE_FILE_PATTERNS = (
    "*.arrow *.bin *.ckpt *.h5 *.npy *.npz *.onnx *.parquet *.pkl *.pt *.pth *.safetensors *.tar *.zip"
)


class HubError(Exception):
    """A refusal as the client gets to see it: the HTTP status, `X-Error-Code`, and what else the answer carries."""

    def __init__(
        self, status: int, message: str, code: str | None = None, headers: dict[str, str] | None = None, **body: object
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = headers or {}
        self.body = body


@dataclass(frozen=True)
class Blob:
    """The content of one file, kept in git or, for a large one, beside it (LFS)."""

    content: bytes = field(repr=False)
    lfs: bool = False

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def pointer(self) -> bytes:
        """What git stores in place of a large file."""
        lines = ("version https://git-lfs.github.com/spec/v1", f"oid sha256:{self.sha256}", f"size {len(self.content)}")
        return "".join(f"{line}\n" for line in lines).encode()

    @cached_property
    def git_id(self) -> str:
        """git's SHA-1 of what it stores."""
        stored = self.pointer if self.lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()

    @property
    def etag(self) -> str:
        """The name under which a client caches the content."""
        return self.sha256 if self.lfs else self.git_id


@dataclass(frozen=True)
class Commit:
    """One state of all files; `parent` is the commit before it."""

    files: Mapping[str, Blob]
    title: str
    author: str
    description: str = ""
    parent: Commit | None = None
    date: datetime = field(default_factory=lambda: datetime.now(timezone.utc))

    @cached_property
    def id(self) -> str:
        tree = sorted((path, blob.git_id) for path, blob in self.files.items())
        parent = self.parent and self.parent.id
        return hashlib.sha1(repr((parent, tree, self.title, self.author, self.date)).encode()).hexdigest()


@dataclass(frozen=True)
class Write:
    """Put `blob` at `path`."""

    path: str
    blob: Blob


@dataclass(frozen=True)
class Delete:
    """Remove the file at `path`, or with `folder` everything under it."""

    path: str
    folder: bool = False


class Repository:
    """A model, dataset or Space: references to commits, among them "refs/heads/main".

    Example:
        >>> repository = Repository("models/user/net")
        >>> _, commit = repository.commit("main", [Write("config.json", Blob(b"{}"))], title="Add the configuration")
        >>> sorted(repository.find("main").files)
        ['.gitattributes', 'config.json']
        >>> repository.find(commit.id) is commit
        True
    """

    def __init__(self, key: str, private: bool = False) -> None:
        self.key = key
        self.name = key.split("/", 1)[1]
        self.owner = self.name.split("/")[0]
        self.private = private
        attributes = "".join(
            f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LARGE_FILE_PATTERNS.split()
        )
        first = Commit({".gitattributes": Blob(attributes.encode())}, "initial commit", self.owner)
        self.refs = {"refs/heads/main": first}
        self.commits = {first.id: first}
        self._lock = Lock()

    def find(self, revision: str) -> Commit:
        """The commit that a branch, tag, pull request ("refs/pr/1") or commit id names; an id may be shortened to 7.

        Raises:
            HubError: 404, when nothing bears the name.
        """
        for name in (revision, f"refs/heads/{revision}", f"refs/tags/{revision}"):
            if name in self.refs:
                return self.refs[name]
        if len(revision) >= 7:
            for commit_id, commit in self.commits.items():
                if commit_id.startswith(revision):
                    return commit
        raise HubError(404, f"Invalid rev id: {revision}", code="RevisionNotFound")

    def commit(
        self,
        revision: str,
        operations: Iterable[Write | Delete],
        *,
        title: str,
        description: str = "",
        author: str | None = None,
        parent: str | None = None,
        pull_request: bool = False,
    ) -> tuple[str, Commit]:
        """Apply all operations or none. Returns the reference that moved, a new one for a pull request, and the commit.

        Raises:
            HubError: 404 when `revision` is no branch or a deleted path is not there, 412 when `parent` is given and
                the branch has moved on.
        """
        with self._lock:
            ref = revision if revision.startswith("refs/pr/") else f"refs/heads/{revision}"
            if ref not in self.refs:
                raise HubError(404, f"Invalid rev id: {revision}", code="RevisionNotFound")
            base = self.refs[ref]
            if pull_request:
                ref = f"refs/pr/{1 + sum(name.startswith('refs/pr/') for name in self.refs)}"
                base = self.find(parent) if parent else base
            elif parent and not base.id.startswith(parent):
                raise HubError(412, "A commit has happened since. Please refresh and try again.")
            files = MappingProxyType(_apply(base.files, operations))
            commit = Commit(files, title, author or self.owner, description, parent=base)
            self.refs[ref] = self.commits[commit.id] = commit
            return ref, commit


def _apply(files: Mapping[str, Blob], operations: Iterable[Write | Delete]) -> dict[str, Blob]:
    changed = dict(files)
    for operation in operations:
        if isinstance(operation, Write):
            changed[operation.path] = operation.blob
            continue
        folder = operation.path.rstrip("/") + "/"
        gone = [path for path in changed if (path.startswith(folder) if operation.folder else path == operation.path)]
        if not gone:
            raise HubError(404, f"A file with this name doesn't exist: {operation.path}", code="EntryNotFound")
        for path in gone:
            del changed[path]
    return changed
