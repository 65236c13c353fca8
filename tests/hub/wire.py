"""HTTP/1.1 with the standard library: requests come in, routes answer, connections stay open."""

from __future__ import annotations

import json
import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import SHUT_RDWR
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from .storage import HubError

PLACEHOLDERS = {
    "repo": r"(?:models|datasets|spaces)/(?:[^/]+/)?[^/]+",
    "address": r"(?:(?:datasets|spaces)/)?(?:[^/]+/)?[^/]+?",  # as in a browser, where a model has no prefix
    "revision": r"refs/pr/\d+|[^/]+",
    "path": r".+",
    "name": r"[^/]+",
}


@dataclass
class Request:
    """What a client asked for; `path` is still quoted, `user` is who the token belongs to."""

    method: str
    path: str
    query: dict[str, str]
    headers: Message
    body: bytes
    user: str | None = None

    def json(self) -> Any:
        return json.loads(self.body or b"{}")


class Exchange(NamedTuple):
    """A request and the status it was answered with; `path` is as the client quoted it."""

    method: str
    path: str
    status: int


@dataclass
class Response:
    """The answer; with `cut`, only that many bytes of the body go out before the connection closes."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None


def json_response(data: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(status, json.dumps(data).encode(), {"Content-Type": "application/json", **(headers or {})})


class Routes:
    """Functions by method and path; a template's {repo}, {revision} and so on arrive as arguments of that name."""

    def __init__(self) -> None:
        self._table: list[tuple[str, re.Pattern[str], Callable[..., Response]]] = []

    def __call__(self, method: str, template: str) -> Callable[[Callable[..., Response]], Callable[..., Response]]:
        pattern = re.sub(r"\{(\w+)\}", lambda match: f"(?P<{match[1]}>{PLACEHOLDERS[match[1]]})", template)

        def register(function: Callable[..., Response]) -> Callable[..., Response]:
            self._table.append((method, re.compile(pattern), function))
            return function

        return register

    def answer(self, hub: Any, request: Request) -> Response:
        """Call the first function whose template fits; HEAD is answered as GET.

        Raises:
            HubError: 501 for a request that no route knows, which no client mistakes for an answer.
        """
        method = "GET" if request.method == "HEAD" else request.method
        for route_method, pattern, function in self._table:
            match = pattern.fullmatch(request.path) if route_method == method else None
            if match:
                groups = {name: unquote(value) for name, value in match.groupdict().items() if value is not None}
                return function(hub, request, **groups)
        raise HubError(501, f"This Hub does not know {request.method} {request.path}")


class Server(ThreadingHTTPServer):
    request_queue_size = 64  # clients download with many threads; a connection that finds no place waits a second


def listen(answer: Callable[[Request], Response], exchanges: list[Exchange]) -> ThreadingHTTPServer:
    """A server on a free loopback port, which adds each request it answers to `exchanges`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def handle_any(self) -> None:
            request = self._read()
            try:
                response = answer(request)
            except HubError as error:
                response = _refusal(error)
            except Exception:  # 501 carries the traceback to the test; the client would try again after a 500
                response = _refusal(HubError(501, "The test's Hub failed", error=traceback.format_exc()))
            exchanges.append(Exchange(request.method, request.path, response.status))
            self._send(request, response)

        do_DELETE = do_GET = do_HEAD = do_POST = do_PUT = handle_any

        def _read(self) -> Request:
            url = urlsplit(self.path)
            query = {name: values[-1] for name, values in parse_qs(url.query).items()}
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            return Request(self.command, url.path, query, self.headers, body)

        def _send(self, request: Request, response: Response) -> None:
            self.send_response(response.status)
            for name, value in {"Content-Length": str(len(response.body)), **response.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if request.method != "HEAD":
                self.wfile.write(response.body[: response.cut])
            if response.cut is not None:
                self.connection.shutdown(SHUT_RDWR)
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Server(("127.0.0.1", 0), Handler)


def _refusal(error: HubError) -> Response:
    headers = {"X-Error-Message": str(error), **error.headers}
    if error.code:
        headers["X-Error-Code"] = error.code
    return json_response({"error": str(error), **error.body}, error.status, headers)
