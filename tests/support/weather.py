"""A small HTTP proxy in front of a store, which makes the weather: refusals, cut connections, late listings.

The trade-off: one thread per connection and whole bodies in memory; enough for small shards.
"""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_PASSED_ON = {"content-length", "content-type", "etag", "last-modified", "content-range"}
_ERROR = '<?xml version="1.0"?><Error><Code>{code}</Code><Message>{code}, from the proxy</Message></Error>'


@dataclass(frozen=True)
class Seen:
    """One request."""

    method: str
    path: str
    """Path and query."""

    @property
    def key(self) -> str:
        return self.path.partition("?")[0]

    @property
    def is_listing(self) -> bool:
        return self.method == "GET" and "list-type=2" in self.path


LOST = "lost"
Which = Callable[[Seen], bool]


@dataclass
class _Rule:
    which: Which
    times: float
    code: str | None
    """S3's error code of a refusal; LOST does as asked and does not answer; None cuts the body in the middle."""
    status: int = 503


@dataclass
class Weather:
    """What the proxy does to requests, and what it has seen."""

    seen: list[Seen] = field(default_factory=list)
    listing_lag: int = 0
    """Each listing shows what the one so many listings ago would have."""
    _rules: list[_Rule] = field(default_factory=list)
    _listings: dict[str, deque[Any]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def refuse(self, which: Which, times: float, code: str = "SlowDown", status: int = 503) -> None:
        """Answer the next `times` requests of a kind with an error."""
        self._rules.append(_Rule(which, times, code, status))

    def cut(self, which: Which, times: float) -> None:
        """Close the connection after half of the body, of the next `times` requests of a kind."""
        self._rules.append(_Rule(which, times, None))

    def lose(self, which: Which, times: float) -> None:
        """Do what the next `times` requests of a kind ask, and close the connection instead of an answer."""
        self._rules.append(_Rule(which, times, LOST))

    def count(self, which: Which) -> int:
        return sum(which(one) for one in self.seen)

    def clear(self) -> None:
        self._rules.clear()
        self.listing_lag = 0

    def rule_for(self, seen: Seen) -> _Rule | None:
        with self._lock:
            self.seen.append(seen)
            for rule in self._rules:
                if rule.times > 0 and rule.which(seen):
                    rule.times -= 1
                    return rule
        return None

    def late(self, seen: Seen, answer: Any) -> Any:
        with self._lock:
            past = self._listings.setdefault(seen.path, deque(maxlen=50))
            past.append(answer)
            return past[max(0, len(past) - 1 - self.listing_lag)] if self.listing_lag else answer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, *_: object) -> None:
        pass

    def _handle(self) -> None:
        weather: Weather = self.server.weather
        seen = Seen(self.command, self.path)
        length = int(self.headers.get("Content-Length", 0))
        rule = weather.rule_for(seen)
        if rule and rule.code is None and self.command == "PUT":
            self.rfile.read(length // 2)
            return self._close()
        body = self.rfile.read(length)
        if rule and rule.code and rule.code != LOST:
            return self._refuse(rule)
        status, headers, data = self._ask(body)
        if rule and rule.code == LOST:
            return self._close()
        if seen.is_listing:
            status, headers, data = weather.late(seen, (status, headers, data))
        return self._answer(status, headers, data, cut=rule is not None)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _handle

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        host, port = self.server.behind
        connection = http.client.HTTPConnection(host, port, timeout=60)
        # The server checks a condition and then writes; a real store does both at once.
        conditional = self.headers.get("If-Match") or self.headers.get("If-None-Match")
        lock = self.server.conditional if conditional else contextlib.nullcontext()
        with contextlib.closing(connection), lock:
            headers = {name: value for name, value in self.headers.items() if name != "Connection"}
            connection.request(self.command, self.path, body or None, headers)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()

    def _refuse(self, rule: _Rule) -> None:
        data = _ERROR.format(code=rule.code).encode() if self.command != "HEAD" else b""
        headers = [("content-type", "application/xml"), ("content-length", str(len(data)))]
        self._answer(rule.status, headers, data, cut=False)

    def _answer(
        self, status: int, headers: list[tuple[str, str]], data: bytes, *, cut: bool
    ) -> None:
        self.send_response(status)
        for name, value in headers:
            if name.lower() in _PASSED_ON or name.lower().startswith("x-amz"):
                self.send_header(name, value)
        if not any(name.lower() == "content-length" for name, _ in headers):
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self._close()

    def _close(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(2)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, behind: tuple[str, int]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = behind
        self.weather = Weather()
        self.conditional = threading.Lock()

    def handle_error(self, *_: object) -> None:
        """Clients that go away are no news."""


@contextlib.contextmanager
def weather_before(host: str, port: int) -> Any:
    """A proxy before the server at host and port: its URL and its weather."""
    server = _Server((host, port))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", server.weather
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
