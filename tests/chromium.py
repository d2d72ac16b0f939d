"""Pages in a real browser: what a foreign site finds out, and what a user sees."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

PATIENCE_SECONDS = 60.0
PROGRAM = os.environ.get("CHROMIUM") or shutil.which("chromium") or ""
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]
FOREIGN_NAME = "attacker.example"
"""A name that the browser is told to find on this machine, as a rebound one is."""

needs_chromium = pytest.mark.skipif(not PROGRAM, reason="no chromium here; CHROMIUM names one")


def command(url: str, profile: str, *flags: str) -> list[str]:
    rules = f"--host-resolver-rules=MAP {FOREIGN_NAME} 127.0.0.1"
    return [PROGRAM, *FLAGS, rules, f"--user-data-dir={profile}", *flags, url]


def shown(url: str) -> str:
    """Return what a page consists of once its scripts have run."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        line = command(url, profile, "--virtual-time-budget=15000", "--dump-dom")
        answer = subprocess.run(line, capture_output=True, text=True, check=True, timeout=PATIENCE_SECONDS)
    return answer.stdout


def reported(script: str, host: str = "127.0.0.1") -> dict[str, Any]:
    """Open a page of a site of its own that runs a script; return what its function ``findings`` found.

    Args:
        script: JavaScript that defines ``async function findings()``.
        host: Name under which the browser reaches that site.
    """
    with site(script) as (port, reports), tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = subprocess.Popen(
            command(f"http://{host}:{port}/", profile, "--remote-debugging-port=0"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            return dict(reports.get(timeout=PATIENCE_SECONDS))
        finally:
            browser.kill()
            browser.wait()


@contextlib.contextmanager
def site(script: str) -> Iterator[tuple[int, queue.Queue[dict[str, Any]]]]:
    """Serve a page on a port of its own; what it posts there is put into the queue."""
    reports: queue.Queue[dict[str, Any]] = queue.Queue()
    page = (
        f"<!doctype html><title>foreign</title><script>{script}\n"
        "findings().then(found => fetch('/report', {method: 'POST', body: JSON.stringify(found)}))</script>"
    ).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page)

        def do_POST(self) -> None:
            reports.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield http.server_port, reports
        finally:
            http.shutdown()
            thread.join()


ATTEMPT = """
const found = {};
async function attempt(name, action) {
  try { found[name] = await action(); } catch (error) { found[name] = "refused"; }
}
function opened(url) {
  return new Promise((done, failed) => {
    const socket = new WebSocket(url);
    socket.onopen = () => done("open");
    socket.onerror = failed;
  });
}
const json = {"Content-Type": "application/json"};
"""
