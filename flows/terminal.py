"""Before and after a run at the command line: whether a server can be used, and what is said when the run fails."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import ssl
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from blocks.saved import within
from flows.faults import why_not_writable

ROOT = Path(__file__).resolve().parent.parent
SERVER_SECONDS = 10.0
"""How long a Prefect server has to answer before a run begins; most need a tenth of it."""
TRY_AGAIN_SECONDS = 0.5
LONGEST_MESSAGE = 500
TRACEBACKS = "DISTRUST_TRACEBACKS"
"""Environment variable that shows every traceback in the terminal."""
DETAILS = "DISTRUST_DETAILS"
"""Environment variable that shows in the terminal what each stage of the pipeline did in full, and the log."""
DESKTOP = "DISTRUST_DESKTOP"
"""Environment variable that keeps commands off the desktop if it is 0: no notification, no page that opens."""
LONG_RUN_SECONDS = 60.0
LONGEST_NOTE = 200


def why_no_run() -> str | None:
    """Return why Prefect could not run anything here, in a sentence; none if nothing is known to be in the way."""
    if address := os.environ.get("PREFECT_API_URL"):
        silent: str | None = f"did not answer within {SERVER_SECONDS:.0f} s"
        fault = within(SERVER_SECONDS, lambda: _fault_of_server(address), silent)
        shown = re.sub("//[^/@]*@", "//", address)  # it may carry a password
        return fault and (
            f"the Prefect server at PREFECT_API_URL={shown} {fault}. Start it (`make up` prints its address), or run "
            "without one: unset PREFECT_API_URL"
        )
    home = Path(os.path.expanduser(os.environ.get("PREFECT_HOME") or ROOT / ".prefect"))
    reason = why_not_writable(home)
    return reason and (
        f"Prefect keeps its database in {home}, which cannot be written ({reason}); set PREFECT_HOME to a folder that "
        "can be"
    )


def _fault_of_server(address: str) -> str | None:
    """Say what is wrong with a Prefect server; one that wants a password is fine, and the client reports the rest."""
    deadline = time.monotonic() + SERVER_SECONDS
    while True:
        try:
            context = ssl.create_default_context(cafile=os.environ.get("PREFECT_API_SSL_CERT_FILE") or None)
            health = f"{address.rstrip('/')}/health"
            with urllib.request.urlopen(health, timeout=SERVER_SECONDS, context=context) as answer:  # noqa: S310
                json.loads(answer.read(1024))
            return None
        except urllib.error.HTTPError as error:
            if error.code < 500:
                return None if error.code in (401, 403) else _not_prefect(f"status {error.code}")
            if time.monotonic() + 2 * TRY_AGAIN_SECONDS > deadline:  # before the whole question is given up
                return f"answers with status {error.code}"
            time.sleep(TRY_AGAIN_SECONDS)
        except urllib.error.URLError as error:
            return None if isinstance(error.reason, ssl.SSLError) else f"cannot be reached ({error.reason})"
        except OSError as error:
            return None if isinstance(error, ssl.SSLError) else f"cannot be reached ({error.strerror or error})"
        except Exception as error:  # anything that another server may send, or a text that is not an address
            return _not_prefect(type(error).__name__)


def _not_prefect(found: str) -> str:
    return f"does not answer like one ({found}); such an address ends with /api, like http://127.0.0.1:4200/api"


def hush_tracebacks() -> None:
    """Keep Prefect's account of an error off the terminal, which says once why a run ended; the run's log has it."""
    if os.environ.get(TRACEBACKS):
        return

    def is_news(record: logging.LogRecord) -> bool:
        is_repeated = record.exc_info or record.getMessage().startswith(("Finished in state", "Crash detected!"))
        return not (record.levelno >= logging.ERROR and is_repeated)

    for logger in (logging.getLogger(), logging.getLogger("prefect")):
        for handler in logger.handlers:
            if isinstance(handler, logging.StreamHandler):
                handler.addFilter(is_news)


def describe_defect(name: str, error: BaseException) -> str:
    """Describe an error that is not the project's own: the kind, its message, and where the traceback is."""
    message = " ".join(str(error).split())
    if len(message) > LONGEST_MESSAGE:
        message = f"{message[:LONGEST_MESSAGE]} …"
    line = f"{type(error).__name__}: {message}" if message else type(error).__name__
    whole = "".join(traceback.format_exception(error))
    if os.environ.get(TRACEBACKS):
        return f"{line}\n\n{whole}"
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", errors="replace", prefix=f"distrust-{name}-", suffix=".log", delete=False
        ) as file:
            file.write(whole)
    except OSError:
        return f"{line} ({TRACEBACKS}=1 shows where)"
    return f"{line} (the traceback is in {file.name}; {TRACEBACKS}=1 shows it here)"


def at_terminal() -> bool:
    """Whether a person sits at a terminal and wants to hear of a run, and it is not a test of somebody's server."""
    return os.environ.get(DESKTOP) != "0" and not os.environ.get("CI") and sys.stdout.isatty()


def on_desktop() -> bool:
    """Whether that terminal is on a desktop of this machine."""
    shows = sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return shows and at_terminal() and not os.environ.get("SSH_CONNECTION")


def show_page(page: Path) -> None:
    """Open a page in the desktop's browser, if there is a desktop."""
    if on_desktop():
        _start("open" if sys.platform == "darwin" else "xdg-open", str(page.absolute()))


def notify(title: str, text: str, seconds: float) -> None:
    """Tell that a run is over which took so long that nobody waited for it: on the desktop, else by the bell."""
    if seconds < LONG_RUN_SECONDS or not at_terminal():
        return
    if not on_desktop():
        print("\a", end="", file=sys.stdout, flush=True)
        return
    text = " ".join(text.split())[:LONGEST_NOTE]
    if sys.platform == "darwin":  # the words are arguments, so that none of them is read as a script
        script = ["on run argv", "display notification (item 2 of argv) with title (item 1 of argv)", "end run"]
        _start("osascript", *(part for line in script for part in ("-e", line)), title, text)
    else:
        _start("notify-send", "--app-name=Empirical Distrust", "--", title, text)


def _start(*command: str) -> None:
    """Start a program of the desktop, if it is there; a run does not depend on it."""
    with contextlib.suppress(OSError):
        silent: Any = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.Popen(command, start_new_session=True, **silent)
