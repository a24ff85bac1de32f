"""The thread that serves the local endpoint: programs of this machine ask in OpenAI's format.

It listens on 127.0.0.1 alone, at a port that the system chooses, and answers nobody who doesn't know the
token. Each request is a thread that waits for what the window's side says to its `Exchange`.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import queue
import select
import socket
import socketserver
import threading
import time
import uuid
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

import msgspec
from PySide6.QtCore import QObject, QThread, Signal

from qlora_studio.errors import StudioError
from qlora_studio.protocol import openai

HOST = "127.0.0.1"
LARGEST_BODY = 900_000  # bytes: its messages are one line to the reader, with the names of their fields
_MOST_DIGITS = 9  # of a Content-Length; int() refuses thousands of them by an error of its own
MOST_AT_ONCE = 16  # connections; more are turned away
SILENT_S = 30.0  # a client that sends nothing is let go
LOOK_S = 0.25  # between two looks whether the client is still there
POLL_S = 0.05


@dataclass(frozen=True)
class Said:
    """A piece of a reply; the last one says how it ended. failed: an HTTP status and why, instead."""

    text: str = ""
    ended: str = ""  # stop | length
    prompt_tokens: int = 0
    tokens: int = 0
    failed: tuple[int, str] | None = None

    @property
    def is_last(self) -> bool:
        """Nothing follows it."""
        return bool(self.ended) or self.failed is not None


@dataclass(eq=False)
class Exchange:
    """A request, and what is said to it from the window's thread."""

    request: openai.ChatRequest
    gone: threading.Event = field(default_factory=threading.Event)  # nobody waits for the answer any more
    said: queue.SimpleQueue[Said] = field(default_factory=queue.SimpleQueue)

    def say(self, text: str) -> None:
        """More of the reply."""
        if text:
            self.said.put(Said(text))

    def finish(self, ended: str, prompt_tokens: int, tokens: int) -> None:
        """ended: stop | length"""
        self.said.put(Said(ended=ended, prompt_tokens=prompt_tokens, tokens=tokens))

    def fail(self, status: int, message: str) -> None:
        """Instead of a reply, or of its rest."""
        self.said.put(Said(failed=(status, message)))


class EndpointThread(QThread):
    """asked: an Exchange to be answered. left: one that nobody waits for any more."""

    asked = Signal(object)
    left = Signal(object)

    def __init__(self, token: str, models: tuple[str, ...], parent: QObject | None = None) -> None:
        """It listens from now on. Raises: StudioError where the system gives no port."""
        super().__init__(parent)
        self.token, self.models = token, models
        self.created = int(time.time())
        self._open: set[Exchange] = set()
        self._lock = threading.Lock()
        self._closed = False
        try:
            self._server = _Server((HOST, 0), self)
        except OSError as error:
            raise StudioError(f"No port could be opened on {HOST}: {error.strerror}.") from error

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    def run(self) -> None:
        """Serves until `end`."""
        self._server.serve_forever(POLL_S)

    def end(self) -> None:
        """Nobody is heard any more; who waits is told. Takes no longer than a look at the socket."""
        self._server.shutdown()
        self.wait()
        self._server.server_close()
        with self._lock:
            self._closed = True
            for exchange in self._open:
                exchange.fail(503, "The endpoint was closed.")

    def open_exchange(self, request: openai.ChatRequest) -> Exchange:
        """From a connection's thread."""
        exchange = Exchange(request)
        with self._lock:
            if self._closed:
                exchange.fail(503, "The endpoint was closed.")
                return exchange
            self._open.add(exchange)
        self.asked.emit(exchange)
        return exchange

    def close_exchange(self, exchange: Exchange, answered: bool) -> None:
        """From a connection's thread."""
        with self._lock:
            self._open.discard(exchange)
        if not answered:
            exchange.gone.set()
            self.left.emit(exchange)


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Of http.server's own only what looks no name up."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = os.name == "posix"  # elsewhere it would let others take the port over

    def __init__(self, address: tuple[str, int], endpoint: EndpointThread) -> None:
        self.endpoint = endpoint
        self.room = threading.BoundedSemaphore(MOST_AT_ONCE)
        super().__init__(address, _Connection)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self.room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is no news, and what it sent is nobody else's."""


class _Connection(BaseHTTPRequestHandler):
    server: _Server
    timeout = SILENT_S
    server_version, sys_version = "QLoRAStudio", ""

    def log_message(self, format: str, *args: Any) -> None:
        """What is asked isn't written down."""

    def do_GET(self) -> None:
        if not self._may():
            return
        if self.path != "/v1/models":
            self._refuse(404, "Ask for /v1/models, or post to /v1/chat/completions.")
            return
        endpoint = self.server.endpoint
        models = tuple(openai.Model(id=name, created=endpoint.created) for name in endpoint.models)
        self._answer(200, msgspec.json.encode(openai.ModelList(data=models)))

    def do_POST(self) -> None:
        if not self._may():
            return
        if self.path != "/v1/chat/completions":
            self._refuse(404, "Post to /v1/chat/completions.")
            return
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit():
            self._refuse(411, "The request must say its Content-Length.")
            return
        if len(length) > _MOST_DIGITS or int(length) > LARGEST_BODY:
            self._refuse(413, f"The request is longer than {LARGEST_BODY:,} bytes.")
            return
        try:
            request = openai.chat_request(self.rfile.read(int(length)))
        except StudioError as error:
            self._refuse(400, error.message)
            return
        if request.model not in self.server.endpoint.models:
            known = ", ".join(self.server.endpoint.models)
            self._refuse(404, f"No model is called {request.model[:100]!r} here; {known} can be asked.")
            return
        self._reply(request)

    def _may(self) -> bool:
        """Whoever knows the token and came by this address: no page of the web under a name of its own."""
        port = self.server.endpoint.port
        if self.headers.get("Host", "") not in (f"{HOST}:{port}", f"localhost:{port}"):
            self._refuse(403, f"This is {HOST}:{port} alone.")
            return False
        said = self.headers.get("Authorization", "").encode("latin-1", "replace")
        if not hmac.compare_digest(said, f"Bearer {self.server.endpoint.token}".encode()):
            self._refuse(401, "The token is missing or another one.")
            return False
        return True

    def _reply(self, request: openai.ChatRequest) -> None:
        endpoint = self.server.endpoint
        exchange = endpoint.open_exchange(request)
        answered = False
        try:
            answered = self._stream(exchange) if request.stream else self._whole(exchange)
        except OSError:
            pass  # it hung up
        finally:
            endpoint.close_exchange(exchange, answered)

    def _whole(self, exchange: Exchange) -> bool:
        text = ""
        while (said := self._next(exchange)) is not None and not said.is_last:
            text += said.text
        if said is None:
            return False
        if said.failed is not None:
            self._refuse(*said.failed)
            return True
        completion = openai.Completion(
            id=_new_id(),
            created=int(time.time()),
            model=exchange.request.model,
            choices=(
                openai.Choice(
                    message=openai.SaidMessage(role="assistant", content=text), finish_reason=said.ended
                ),
            ),
            usage=openai.Usage(
                prompt_tokens=said.prompt_tokens,
                completion_tokens=said.tokens,
                total_tokens=said.prompt_tokens + said.tokens,
            ),
        )
        self._answer(200, msgspec.json.encode(completion))
        return True

    def _stream(self, exchange: Exchange) -> bool:
        chunk_id, created = _new_id(), int(time.time())

        def send(delta: openai.SaidMessage, ended: str | None = None) -> None:
            choice = openai.ChunkChoice(delta=delta, finish_reason=ended)
            chunk = openai.Chunk(
                id=chunk_id, created=created, model=exchange.request.model, choices=(choice,)
            )
            self._event(msgspec.json.encode(chunk))

        said = self._next(exchange)
        if said is None:
            return False
        if said.failed is not None:
            self._refuse(*said.failed)
            return True
        self._head(200, "text/event-stream")
        send(openai.SaidMessage(role="assistant", content=""))
        while said is not None and not said.is_last:
            send(openai.SaidMessage(content=said.text))
            said = self._next(exchange)
        if said is None:
            return False
        if said.failed is not None:
            self._event(_error(*said.failed))
            return True
        send(openai.SaidMessage(), said.ended)
        self._event(b"[DONE]")
        return True

    def _next(self, exchange: Exchange) -> Said | None:
        """None: the client hung up meanwhile."""
        while True:
            with contextlib.suppress(queue.Empty):
                return exchange.said.get(timeout=LOOK_S)
            readable, _, _ = select.select([self.connection], [], [], 0)
            if readable and not self.connection.recv(1, socket.MSG_PEEK):
                return None

    def _event(self, data: bytes) -> None:
        self.wfile.write(b"data: " + data + b"\n\n")

    def _refuse(self, status: int, message: str) -> None:
        self._answer(status, _error(status, message))

    def _answer(self, status: int, body: bytes) -> None:
        self._head(status, "application/json", len(body))
        self.wfile.write(body)

    def _head(self, status: int, kind: str, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Cache-Control", "no-store")
        if length is not None:
            self.send_header("Content-Length", str(length))
        if status == 401:
            self.send_header("WWW-Authenticate", "Bearer")
        self.send_header("Connection", "close")
        self.end_headers()


def _error(status: int, message: str) -> bytes:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return msgspec.json.encode(openai.ErrorAnswer(error=openai.ErrorBody(message=message, type=kind)))


def _new_id() -> str:
    return f"chatcmpl-{uuid.uuid4().hex}"
