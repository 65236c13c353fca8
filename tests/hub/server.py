"""A Hub on loopback for tests, and how a test talks to it: in a fresh process, with an empty cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from textwrap import dedent
from threading import Thread
from typing import Any, Literal

from .api import routes
from .content import store_routes
from .faults import Faults
from .storage import Commit, HubError, Repository
from .wire import Exchange, Request, Response, listen


class HubServer:
    """A Hub that the unmodified client talks to, from creating a repository to loading from it.

    huggingface_hub reads its settings when it is imported, so every client is a process of its own with the variables
    of `environment`. One of them is needed for its own sake: HF_HUB_DISABLE_XET=1. Version 1 asks which transfer to
    use and takes plain HTTP; version 2, with hf_xet installed, uploads large files by Xet without asking.

    As on the real Hub, large files live at an address of another origin: that is where the client's own rules about
    redirects and about keeping the token to itself apply. The store refuses any request that brings a token.

    Attributes:
        token: the token of `user`, who owns every repository named "user/…".
        repositories: by key, "models/user/name"; a test may look into them, and commit to them as somebody else.
        faults: what goes wrong next.
        exchanges: all requests so far, oldest first.

    Example:
        >>> with HubServer() as hub:
        ...     environment = hub.environment()
        ...     code = "from huggingface_hub import whoami; result = whoami()['name']"
        ...     run_client(code, environment), hub.exchanges
        ('user', [Exchange(method='GET', path='/api/whoami-v2', status=200)])
    """

    def __init__(self, user: str = "user") -> None:
        self.repositories: dict[str, Repository] = {}
        self.large_files: dict[str, bytes] = {}
        self.parts: dict[tuple[str, int], bytes] = {}
        self.faults = Faults()
        self.exchanges: list[Exchange] = []
        self._users: dict[str, str] = {}
        self.token = self.add_user(user)
        self._servers = [listen(answer, self.exchanges) for answer in (self._answer, self._answer_as_store)]
        # Clients of version 1 tell origins apart by host alone.
        self.endpoint, self.store_endpoint = (
            f"http://{host}:{server.server_port}"
            for host, server in zip(("127.0.0.1", "localhost"), self._servers, strict=True)
        )
        self._homes = tempfile.TemporaryDirectory(prefix="hub-")

    def __enter__(self) -> HubServer:
        for server in self._servers:
            Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()
        self._homes.cleanup()

    def add_user(self, name: str) -> str:
        """The token of another user, who may read what is public and open pull requests."""
        token = f"hf_{name}"
        self._users[token] = name
        return token

    def environment(self, **changes: str | None) -> dict[str, str]:
        """Variables for a client process: this Hub, `user`'s token, an empty cache, and `changes`, None for without.

        Each call makes a new cache; processes that get the same variables share one.
        """
        theirs = ("HF_", "HUGGING", "TRANSFORMERS_")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(theirs) and not k.lower().endswith("_proxy")}
        home = tempfile.mkdtemp(dir=self._homes.name)
        settings = {"HF_ENDPOINT": self.endpoint, "HF_HOME": home, "HF_TOKEN": self.token}
        settings |= {f"HF_HUB_DISABLE_{name}": "1" for name in ("XET", "TELEMETRY", "PROGRESS_BARS")}
        return {name: value for name, value in {**kept, **settings, **changes}.items() if value is not None}

    def create_repository(self, key: str, private: bool = False) -> Repository:
        """A new repository with nothing in it but .gitattributes."""
        repository = self.repositories[key] = Repository(key, private)
        return repository

    def repository(
        self, name: str, user: str | None, right: Literal["read", "propose", "write"] = "read"
    ) -> Repository:
        """The repository that a key or a browser's address names, if `user` has the right asked for.

        Raises:
            HubError: 401 for nobody; for a user 404, which does not tell whether a private repository is there, or 403,
                when it may be read but not changed.
        """
        key = name if name.startswith(("models/", "datasets/", "spaces/")) else f"models/{name}"
        repository = self.repositories.get(key)
        if repository is None or (repository.private and user != repository.owner):
            raise HubError(404 if user else 401, "Repository not found", code="RepoNotFound")
        if (right == "propose" and user is None) or (right == "write" and user != repository.owner):
            raise HubError(403 if user else 401, f"You don't have the rights to change {repository.name}")
        return repository

    def commit(self, repository: Repository, revision: str) -> Commit:
        """What a client gets to see for a revision."""
        commit = repository.find(revision)
        if not commit.id.startswith(revision) and commit.parent and self.faults.take("revision"):
            return commit.parent
        return commit

    def url(self, key: str) -> str:
        """Where a browser finds a repository; models have no prefix there."""
        return f"{self.endpoint}/{key.removeprefix('models/')}"

    def _answer(self, request: Request) -> Response:
        authorization = request.headers.get("Authorization")
        if authorization is not None:
            request.user = self._users.get(authorization.removeprefix("Bearer "))
            if request.user is None:
                raise HubError(401, "Invalid credentials in Authorization header")
        return routes.answer(self, request)

    def _answer_as_store(self, request: Request) -> Response:
        if "Authorization" in request.headers:
            raise HubError(400, "Only one way to prove who you are is allowed: expected no token")
        return store_routes.answer(self, request)


def run_client(code: str, environment: dict[str, str]) -> Any:
    """Run Python code in a fresh process; returns what the code assigned to `result`, which JSON must be able to say.

    Raises:
        AssertionError: with what the process wrote, if it failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "result.json")
        source = f"{dedent(code)}\nimport json, pathlib\npathlib.Path({str(answer)!r}).write_text(json.dumps(result))\n"
        process = subprocess.run([sys.executable, "-c", source], env=environment, capture_output=True, text=True)
        assert process.returncode == 0, process.stderr
        return json.loads(answer.read_text())
