"""Anything that the documents in `openapi/` allow, and much that they do not, sent to a running program.

Schemathesis makes the requests from the documents and compares the answers with them: a status, a header or a body
that is not documented is a failure, and so is every 5xx. The program under test is the one named by GRIDWIRE_BIN.
Usage: `run.py SEED SECONDS`; `cargo xtask schemathesis` calls it.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SUBSCRIPTION = "0f4f6c5e-53b1-4a51-9a0a-5d1f8d5f0c11"
GROUP = "api-tests"
ARM = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/Microsoft.EventGrid"
NAMESPACE = f"/{SUBSCRIPTION}/{GROUP}/namespaces/spaces"

# A start takes well under a second; a slow machine that also compiles gets the rest.
START_SECONDS_MAX = 30
STOP_SECONDS_MAX = 25
# How the time is shared out.
SHARES = {"admin": 0.06, "data-plane": 0.44, "management": 0.5}
# Beyond that a run is stuck, not slow.
OVERTIME_SECONDS = 120
# For each operation in each round.
EXAMPLES = 12
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,unsupported_method,allow_header_conformance"
)


class Server:
    """One process on a data directory of its own."""

    def __init__(self, program):
        self.root = Path(tempfile.mkdtemp(prefix="gridwire-api-"))
        data = self.root / "data"
        command = [program, "serve", "--dev", "--data-dir", str(data)]
        command += ["--http", "127.0.0.1:0", "--https", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
        # The program reads every variable of its own name, and knows no GRIDWIRE_BIN.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GRIDWIRE_")}
        # Spoilt credentials are answered as such, however many.
        environment["GRIDWIRE_AUTH_FAILURES_PER_MINUTE"] = "0"
        with open(self.root / "log", "ab") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        end = time.monotonic() + START_SECONDS_MAX
        while True:
            if self.process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"the server does not start:\n{self.log()}")
            with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
                addresses = json.loads((data / "addresses.json").read_text())
                break
            time.sleep(0.02)
        self.http, self.admin = "http://" + addresses["http"], "http://" + addresses["admin"]
        self.token = (data / "management.token").read_text().strip()

    def log(self):
        return (self.root / "log").read_text(errors="replace")

    def call(self, method, url, body=None, **headers):
        """One request that must succeed; the answer is its JSON."""
        data = None if body is None else json.dumps(body).encode()
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        headers.setdefault("content-type", "application/json")
        request = urllib.request.Request(url, data, headers, method=method)
        # Proxies are for the outside.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=60) as answer:
            return json.loads(answer.read() or "null")

    def manage(self, method, resource, body=None):
        url = f"{self.http}{ARM}/{resource}?api-version=2025-02-15"
        return self.call(method, url, body, authorization=f"Bearer {self.token}")

    def stop(self):
        """Asks the process to end; the answer is whether it ended well."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_SECONDS_MAX) == 0
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return False


def make_resources(server):
    """What the requests are about; the answer is the keys of topic, domain and namespace."""
    topic = {"location": "local", "properties": {"inputSchema": "CloudEventSchemaV1_0"}}
    server.manage("PUT", "topics/orders", topic)
    server.manage("PUT", "domains/malls", topic)
    server.manage("PUT", "namespaces/spaces", {"location": "local", "properties": {}})
    for name in ("orders", "noise"):
        server.manage("PUT", f"namespaces/spaces/topics/{name}", {"properties": {}})
        queue = {"deliveryConfiguration": {"deliveryMode": "Queue", "queue": {}}}
        resource = f"namespaces/spaces/topics/{name}/eventSubscriptions/pulled"
        server.manage("PUT", resource, {"properties": queue})
    return (
        server.manage("POST", "topics/orders/listKeys")["key1"],
        server.manage("POST", "domains/malls/listKeys")["key1"],
        server.manage("POST", "namespaces/spaces/listKeys")["key1"],
    )


def keep_publishing(server, key, stop):
    """Lets every receive find something: one that waits takes ten seconds at least."""
    url = f"{server.http}{NAMESPACE}/topics/orders:publish?api-version=2024-06-01"
    number = 0
    while not stop.wait(0.05):
        events = [
            {"specversion": "1.0", "id": f"{number}-{each}", "source": "/api-tests", "type": "Test.Made"}
            for each in range(100)
        ]
        number += 1
        headers = {"content_type": "application/cloudevents-batch+json"}
        with contextlib.suppress(urllib.error.URLError, OSError):
            server.call("POST", url, events, authorization=f"SharedAccessKey {key}", **headers)


def text(value):
    """A text in TOML is written as in JSON."""
    return json.dumps(value)


def data_plane_settings(server, topic_key, domain_key, namespace_key):
    """Most requests are about what is there and by those who may; some are not."""
    names = {
        "subscriptionId": SUBSCRIPTION,
        "resourceGroupName": GROUP,
        "domainName": "malls",
        "namespaceName": "spaces",
        "topicName": "orders",
        "eventSubscriptionName": "pulled",
        "eventSubscription": "1",
    }
    lines = ["[parameters]"]
    lines += [f"{text('path.' + name)} = {text(value)}" for name, value in names.items()]
    for pattern, header, value in [
        ("topics/[^/]*/api/events$|^/api/events$", "aeg-sas-key", topic_key),
        ("domains/[^/]*/api/events$", "aeg-sas-key", domain_key),
        ("topics/[^/]*:|eventsubscriptions", "Authorization", f"SharedAccessKey {namespace_key}"),
        ("^/gridwire", "Authorization", f"Bearer {server.token}"),
    ]:
        lines += ["[[operations]]", f"include-path-regex = {text(pattern)}"]
        lines += [f"headers = {{ {text(header)} = {text(value)} }}"]
    return lines


def management_settings(server):
    lines = ["[headers]", f"Authorization = {text('Bearer ' + server.token)}"]
    names = {"subscriptionId": SUBSCRIPTION, "resourceGroupName": GROUP}
    lines += ["[parameters]"]
    return lines + [f"{text('path.' + name)} = {text(value)}" for name, value in names.items()]


def test(server, document, url, settings, seed, seconds):
    """Runs one document; the answer is whether all was as documented."""
    place = server.root / document
    place.mkdir()
    config = place / "schemathesis.toml"
    config.write_text("\n".join(settings) + "\n")
    command = [str(Path(sys.executable).parent / "schemathesis"), "--config-file", str(config), "run"]
    command += [str(REPOSITORY / "openapi" / f"{document}.json"), "--url", url, "--checks", CHECKS]
    command += ["--seed", str(seed), "--max-time", str(seconds), "--request-timeout", "60", "--warnings", "off"]
    # Rounds over all operations until the time is spent, so that none is left out on a slow machine.
    command += ["--phases", "fuzzing", "--max-examples", str(EXAMPLES), "--generation-database", "none"]
    command += ["--suppress-health-check", "all", "--no-color"]
    print(f"\n{document}: seed {seed}, {seconds} s", flush=True)
    environment = {**os.environ, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    with open(place / "output", "w+b") as output:
        try:
            done = subprocess.run(
                command,
                cwd=place,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=seconds + OVERTIME_SECONDS,
            )
            well = done.returncode == 0
        except subprocess.TimeoutExpired:
            print(f"{document}: still running {OVERTIME_SECONDS} s after its time")
            well = False
    told = (place / "output").read_text(errors="replace")
    requests = re.search(r"(\d+) generated", told)
    if well and requests:
        print(f"{document}: {requests[1]} requests, all answered as documented", flush=True)
        return True
    # One that made none has shown nothing.
    print(told, flush=True)
    return False


def main():
    program = os.environ.get("GRIDWIRE_BIN") or sys.exit("GRIDWIRE_BIN must name the gridwire program")
    seed, seconds = int(sys.argv[1]), int(sys.argv[2])
    server = Server(program)
    failed = []
    try:
        topic_key, domain_key, namespace_key = make_resources(server)
        stop = threading.Event()
        publisher = threading.Thread(target=keep_publishing, args=(server, namespace_key, stop), daemon=True)
        publisher.start()
        for document, url, settings in [
            ("admin", server.admin, []),
            ("data-plane", server.http, data_plane_settings(server, topic_key, domain_key, namespace_key)),
            # Last, for it removes and changes what it finds.
            ("management", server.http, management_settings(server)),
        ]:
            share = max(1, round(seconds * SHARES[document]))
            if not test(server, document, url, settings, seed, share):
                failed.append(document)
        stop.set()
        publisher.join()
    finally:
        well = server.stop()
        log = server.log()
        shutil.rmtree(server.root, ignore_errors=True)
    if not well or "panicked" in log:
        failed.append("the server itself")
        print(log[-4000:])
    if failed:
        sys.exit(f"not as documented: {', '.join(failed)}; again with --seed {seed}")


signal.signal(signal.SIGTERM, signal.default_int_handler)
main()
