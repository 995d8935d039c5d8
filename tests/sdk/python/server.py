"""A Gridwire process of its own for each test module, and the clients that speak to it.

The program under test is the one named by GRIDWIRE_BIN. It runs on a temporary data directory and on ports
of its own choice, which it writes to `addresses.json` once it is ready.
"""

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import uuid
from pathlib import Path

from azure.core.credentials import AccessToken
from azure.core.pipeline.policies import HeadersPolicy
from azure.mgmt.eventgrid import EventGridManagementClient

SUBSCRIPTION = "5b4b650e-28b9-4790-b3ab-ddbd88d727c4"
GROUP = "sdk-tests"

# A start takes well under a second; a slow machine that also compiles gets the rest.
START_SECONDS_MAX = 30
STOP_SECONDS_MAX = 15
# The whole suite takes about a minute.
RUN_SECONDS_MAX = 900


def wait_for(condition, what, seconds=10):
    """The first true answer of `condition`; fails with `what` when none comes in time."""
    end = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() >= end:
            raise AssertionError(f"waited {seconds} s for {what}")
        time.sleep(0.02)


class StaticToken:
    """The management token as the credential that the management clients want."""

    def __init__(self, token):
        self.token = token

    def get_token(self, *_scopes, **_options):
        return AccessToken(self.token, int(time.time()) + 3600)


class AsyncStaticToken:
    """The same for the asynchronous clients."""

    def __init__(self, token):
        self.token = token

    async def get_token(self, *_scopes, **_options):
        return AccessToken(self.token, int(time.time()) + 3600)

    async def close(self):
        pass


class Server:
    """One process on one data directory; it can be stopped or killed, and started again."""

    def __init__(self):
        program = os.environ.get("GRIDWIRE_BIN")
        if not program:
            sys.exit("GRIDWIRE_BIN must name the gridwire program; `cargo xtask test` sets it")
        self.program = program
        self.root = Path(tempfile.mkdtemp(prefix="gridwire-sdk-"))
        self.data_dir = self.root / "data"
        self.log = self.root / "log"
        self.process = None
        atexit.register(self.dispose)

    def start(self):
        # One that was killed leaves its addresses behind.
        (self.data_dir / "addresses.json").unlink(missing_ok=True)
        command = [self.program, "serve", "--dev", "--data-dir", str(self.data_dir)]
        command += ["--http", "127.0.0.1:0", "--https", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
        # The program reads every variable of its own name, and knows no GRIDWIRE_BIN.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GRIDWIRE_")}
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        addresses = wait_for(self._addresses, "addresses.json", START_SECONDS_MAX)
        self.http = "http://" + addresses["http"]
        self.https = "https://" + addresses["https"]
        self.ca = str(self.data_dir / "tls" / "ca.pem")
        self.token = (self.data_dir / "management.token").read_text().strip()
        return self

    def _addresses(self):
        if self.process.poll() is not None:
            raise AssertionError(f"the server ended with {self.process.returncode}:\n{self.tail()}")
        try:
            return json.loads((self.data_dir / "addresses.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None

    def tail(self):
        return self.log.read_text(errors="replace")[-4000:]

    def stop(self):
        """Asks the process to end, as an operator would, and makes sure that it does."""
        self._end(signal.SIGTERM)

    def kill(self):
        """Ends the process where it stands, as a power cut would."""
        self._end(signal.SIGKILL)

    def _end(self, how):
        process, self.process = self.process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(how)
        try:
            process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"the server did not stop:\n{self.tail()}") from None

    def dispose(self):
        """Leaves neither a process nor a file behind; may be called twice."""
        atexit.unregister(self.dispose)
        try:
            self.stop()
        finally:
            shutil.rmtree(self.root, ignore_errors=True)

    def management(self, scheme="https", token=None):
        """The management client over either transport, set up only with its own constructor's options."""
        token = token or self.token
        if scheme == "https":
            return EventGridManagementClient(
                StaticToken(token), SUBSCRIPTION, base_url=self.https, connection_verify=self.ca
            )
        # The bearer policy refuses plain http, so the header is set by another.
        headers = HeadersPolicy({"Authorization": f"Bearer {token}"})
        return EventGridManagementClient(
            StaticToken(token), SUBSCRIPTION, base_url=self.http, authentication_policy=headers
        )

    def topic_endpoint(self, topic, scheme="https"):
        """The endpoint that the management API gave, on the listener wanted."""
        if scheme == "https":
            return topic.endpoint
        scheme_and_host = "/".join(topic.endpoint.split("/", 3)[:3])
        return topic.endpoint.replace(scheme_and_host, self.http, 1)


def start_for_module():
    """For `setUpModule`: a server that ends with the module's tests."""
    server = Server()
    unittest.addModuleCleanup(server.dispose)
    return server.start()


def new_name(prefix):
    """A resource name that no other test uses."""
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


# A test run that is terminated, or stuck, ends as if interrupted: it unwinds, and its servers end with it.
signal.signal(signal.SIGTERM, signal.default_int_handler)
signal.signal(signal.SIGALRM, signal.default_int_handler)
signal.alarm(RUN_SECONDS_MAX)
