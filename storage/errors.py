"""Every error that this project raises on purpose.

::

    DistrustError
    ├── TransientError              trying again may help; only this class is retried
    │   ├── ArchiveBusy             the archive said "later" (429, 5xx, a dropped connection)
    │   │   ├── ArchiveBlocked      the archive blocks this client (a challenge, or page after page refused)
    │   │   ├── ArchiveUnreachable  nothing came from the archive: no network, a wrong address, a dropped connection
    │   │   └── ArchiveAway         the archive stayed away for longer than the limit
    │   └── CorruptAnswer           the bytes do not match their size, checksum or expected shape
    ├── TerminalError               trying again cannot help
    │   ├── ItemUnavailable         one item cannot be fetched; it becomes a reject row with its reason
    │   └── SourceUnavailable       a whole source cannot be read; it is reported and skipped
    └── UserError                   a person can mend it; the message names the value, the bound, the next step
        ├── PrerequisiteError       something must be installed or provided first
        ├── ParameterError          a parameter is outside its bounds or contradicts another
        ├── MixtureError            the corpus does not hold the documents that the mixture needs
        ├── StoreError              the store holds something other than what was asked for
        │   └── DatasetBusy         another process holds the lock of a dataset, and is alive
        └── VerdictError            the adapter missed a threshold, and the run has a gate
"""

from __future__ import annotations


class DistrustError(Exception):
    """Base of all deliberate errors."""


class TransientError(DistrustError):
    """Trying again may help."""


class ArchiveBusy(TransientError):
    """The archive asked to come back later or dropped the connection.

    Args:
        message: What happened, with the URL.
        retry_after_seconds: The pause that the archive asked for, if it named one.
        overloaded: Whether it said so because of too many requests.
    """

    def __init__(self, message: str, retry_after_seconds: float | None = None, *, overloaded: bool = False) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
        self.overloaded = overloaded


class ArchiveBlocked(ArchiveBusy):
    """The archive blocks this client for a time: a challenge, or page after page refused."""


class ArchiveUnreachable(ArchiveBusy):
    """Nothing came from the archive: there is no network, the address is wrong, or it dropped the connection."""


class ArchiveAway(ArchiveBusy):
    """The archive stays away for longer than the limit; this concerns all its items."""


class CorruptAnswer(TransientError):
    """The answer does not match its declared size, checksum or shape."""


class TerminalError(DistrustError):
    """Trying again cannot help."""


class ItemUnavailable(TerminalError):
    """One item cannot be fetched.

    Args:
        reason: A short, countable reason such as ``access-restricted`` (dash-case).
        detail: The sentence for a person.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class SourceUnavailable(TerminalError):
    """A whole source cannot be read."""


class UserError(DistrustError):
    """A person can mend it."""


class PrerequisiteError(UserError):
    """Something must be installed or provided first."""


class ParameterError(UserError, ValueError):
    """A parameter is outside its bounds or contradicts another."""


class MixtureError(UserError):
    """The corpus does not hold the documents that the mixture needs."""


class StoreError(UserError):
    """The store holds something other than what was asked for."""


class DatasetBusy(StoreError):
    """Another process holds the lock of a dataset, and is alive."""

    @property
    def waiting(self) -> str:
        """The sentence of a process that waits for it."""
        return f"{str(self).partition(';')[0]}; waiting for it to finish"


class VerdictError(UserError):
    """The adapter missed a threshold, and the run has a gate."""
