"""How the server is reached and which database it uses: ``up`` chooses both once and saves the choice.

The record is ``.prefect/server.json``, mode 600. Server, workers, commands and services all read it there, so no
password appears in a command line, in a service file or in the list of processes. The database beside it holds the
key to its own secrets, so the record reveals nothing that was safe before.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from storage.addresses import LOOPBACK
from storage.errors import ParameterError
from storage.own_origin import EVERY_ADDRESS

RECORD = "server.json"
RUNNING = "running.json"
"""Records of the server that `up` was asked for, and of the one that was started last."""
HOST = "127.0.0.1"
DATABASES = ("postgresql+asyncpg", "sqlite+aiosqlite")

AUTH = "PREFECT_SERVER_API_AUTH_STRING"
DATABASE = "PREFECT_SERVER_DATABASE_CONNECTION_URL"
CSRF = "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED"
CLIENT_AUTH = "PREFECT_API_AUTH_STRING"


@dataclass(frozen=True)
class Access:
    """Address, password and database of a Prefect server.

    Args:
        host: Address that the server listens on.
        port: Its port.
        auth: ``user:password`` that every client must give; empty: anyone who reaches the port may use the API.
        database: SQLAlchemy URL; empty for an SQLite file in ``.prefect``.
        url: API of a server on another machine, which this folder's workers work for.
        token: Secret of the process that was started, by which it proves that it is ours.

    Raises:
        ParameterError: A value has the wrong form.
    """

    host: str = HOST
    port: int = 4200
    auth: str = field(default="", repr=False)
    database: str = field(default="", repr=False)
    url: str = ""
    token: str = field(default="", repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.auth and not all(self.auth.partition(":")):
            raise ParameterError(f"{AUTH} is not of the form user:password; set both, with a colon between them")
        scheme = self.database.partition("://")[0]
        if self.database and scheme not in DATABASES:
            raise ParameterError(
                f"a database {scheme!r} is not supported; write postgresql+asyncpg://user:password@host/name"
            )
        if self.url and urlsplit(self.url).scheme not in ("http", "https"):
            raise ParameterError(f"server {self.url!r} is not an address; write it like https://host:4200/api")

    @property
    def is_exposed(self) -> bool:
        """Whether other machines can reach the port."""
        return self.host not in LOOPBACK

    @property
    def api_url(self) -> str:
        """Address of the API for clients on this machine."""
        if self.url:
            return self.url
        host = HOST if self.host in EVERY_ADDRESS else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/api"

    def require_loopback(self) -> None:
        """Refuse to listen on another address than loopback without a password.

        Raises:
            ParameterError: Other machines can reach the server, and there is no password.
        """
        if self.is_exposed and not self.auth:
            raise ParameterError(
                f"host {self.host} can be reached from other machines, and anyone who reaches the API can read the "
                "saved secrets and start runs: set AUTH=user:password, or add OPEN=1 if something else guards the port"
            )

    def server_environment(self) -> dict[str, str]:
        """Variables for the server process."""
        given = {AUTH: self.auth, DATABASE: self.database}
        return {name: value for name, value in given.items() if value}

    def client_environment(self) -> dict[str, str]:
        """Variables for workers, runs and the command line."""
        return {"PREFECT_API_URL": self.api_url} | ({CLIENT_AUTH: self.auth} if self.auth else {})

    def save(self, folder: Path, record: str = RECORD) -> None:
        """Write the record, readable by the owner alone."""
        temporary = folder / f"{record}.new"
        temporary.unlink(missing_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            json.dump(asdict(self), file)
        os.replace(temporary, folder / record)


def read_access(folder: Path, record: str = RECORD) -> Access | None:
    """Return what was saved last; none if nothing was, or if the record cannot be read."""
    try:
        return Access(**json.loads((folder / record).read_text("utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def from_environment(port: int, host: str = HOST) -> Access:
    """Take password and database from Prefect's own variables, where no list of processes shows them."""
    return Access(host=host or HOST, port=port, auth=os.environ.get(AUTH, ""), database=os.environ.get(DATABASE, ""))
