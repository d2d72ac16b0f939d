"""How the server is reached and what it keeps its records in: chosen once by ``up``, remembered beside them.

The record lies in ``.prefect/server.json``, readable by its owner alone like the database, whose own encryption key is
no better hidden. Thus no password stands in a command line, in a service file or in the list of processes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from storage.addresses import LOOPBACK
from storage.errors import ParameterError
from storage.own_origin import EVERY_ADDRESS

RECORD = "server.json"
RUNNING = "running.json"
"""How the server is reached that `up` was asked for, and the one that was started last."""
HOST = "127.0.0.1"
DATABASES = ("postgresql+asyncpg", "sqlite+aiosqlite")

AUTH = "PREFECT_SERVER_API_AUTH_STRING"
DATABASE = "PREFECT_SERVER_DATABASE_CONNECTION_URL"
CSRF = "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED"
CLIENT_AUTH = "PREFECT_API_AUTH_STRING"


@dataclass(frozen=True)
class Access:
    """Address, door and database of a Prefect server.

    Args:
        host: Address that the server listens on.
        port: Its port.
        auth: ``user:password`` that everybody must give; empty lets in whoever reaches the port.
        database: SQLAlchemy URL; empty for an SQLite file in ``.prefect``.
        url: API of a server on another machine, which this folder's workers work for.
        token: What only the process that was started knows, and proves by it that it is the one.

    Raises:
        ParameterError: A value cannot be meant.
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
                f"a database {scheme!r} is not supported; write postgresql+asyncpg:// and then user, password and host"
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

    def refuse_open_door(self, *, accepted: bool) -> None:
        """Refuse to listen on other than loopback without a password, since whoever reaches the API reads secrets.

        Raises:
            ParameterError: There is no password and nobody accepted that.
        """
        if self.is_exposed and not self.auth and not accepted:
            raise ParameterError(
                f"host {self.host} can be reached from other machines, and whoever reaches the API reads the saved "
                "secrets and starts runs: set AUTH=user:password, or add OPEN=1 if something else guards the port"
            )

    def server_environment(self) -> dict[str, str]:
        """Variables for the server process."""
        given = {AUTH: self.auth, DATABASE: self.database}
        return {name: value for name, value in given.items() if value}

    def client_environment(self) -> dict[str, str]:
        """Variables for workers, runs and the command line."""
        return {"PREFECT_API_URL": self.api_url} | ({CLIENT_AUTH: self.auth} if self.auth else {})


def from_environment(port: int, host: str = "", environment: Mapping[str, str] | None = None) -> Access:
    """Take password and database from Prefect's own variables, where no list of processes shows them."""
    values = os.environ if environment is None else environment
    return Access(host=host or HOST, port=port, auth=values.get(AUTH, ""), database=values.get(DATABASE, ""))


def remember(folder: Path, access: Access, record: str = RECORD) -> None:
    """Keep what was chosen, readable by the owner alone."""
    temporary = folder / f"{record}.new"
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        json.dump(asdict(access), file)
    os.replace(temporary, folder / record)


def recall(folder: Path, record: str = RECORD) -> Access | None:
    """Return what was chosen last; none if nothing was, or if the record cannot be read."""
    try:
        return Access(**json.loads((folder / record).read_text("utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None
