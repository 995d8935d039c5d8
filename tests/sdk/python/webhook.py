"""A webhook that answers both handshakes and keeps what it was sent."""

import json
import threading
import unittest
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@dataclass
class Request:
    method: str
    path: str
    headers: Message
    body: bytes

    def json(self):
        return json.loads(self.body)

    @property
    def kind(self):
        """`Notification` or `SubscriptionValidation`; the preflight has none."""
        return self.headers.get("aeg-event-type")


class Webhook:
    """Every path is an endpoint. Those that begin with `/refuse` agree to nothing."""

    def __init__(self):
        self._requests = []
        self._changed = threading.Condition()
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_OPTIONS(self):
                self._note()
                if self._refuses():
                    return self._answer(403, b"")
                self._answer(200, b"", {"WebHook-Allowed-Origin": "*", "Allow": "POST"})

            def do_POST(self):
                request = self._note()
                if self._refuses():
                    return self._answer(400, b"")
                if request.kind != "SubscriptionValidation":
                    return self._answer(200, b"")
                code = request.json()[0]["data"]["validationCode"]
                self._answer(200, json.dumps({"validationResponse": code}).encode())

            def _refuses(self):
                return self.path.startswith("/refuse")

            def _note(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                request = Request(self.command, urlsplit(self.path).path, self.headers, body)
                with webhook._changed:
                    webhook._requests.append(request)
                    webhook._changed.notify_all()
                return request

            def _answer(self, status, body, headers=None):
                self.send_response(status)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        class Listener(ThreadingHTTPServer):
            daemon_threads = True
            # Connections that the server keeps open must not keep the tests from ending.
            block_on_close = False

        self._server = Listener(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def url(self, path):
        return f"http://127.0.0.1:{self._server.server_port}{path}"

    def _matching(self, path, kinds):
        return [one for one in self._requests if one.path == path and one.kind in kinds]

    def _wait(self, path, count, kinds, seconds):
        with self._changed:
            found = lambda: len(self._matching(path, kinds)) >= count
            if not self._changed.wait_for(found, seconds):
                got = [(one.method, one.path, one.kind) for one in self._requests]
                raise AssertionError(f"waited {seconds} s for {count} of {kinds} at {path}, got {got}")
            return self._matching(path, kinds)

    def deliveries(self, path, count=1, seconds=15):
        """The deliveries to a path, once there are `count` of them."""
        return self._wait(path, count, ("Notification",), seconds)

    def handshake(self, path):
        """The request that asked whether this path wants events."""
        with self._changed:
            asked = [one for one in self._requests if one.path == path and one.kind != "Notification"]
        assert len(asked) == 1, f"expected one handshake at {path}, got {len(asked)}"
        return asked[0]

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def start_for_module():
    """For `setUpModule`: a webhook that ends with the module's tests."""
    webhook = Webhook()
    unittest.addModuleCleanup(webhook.close)
    return webhook
