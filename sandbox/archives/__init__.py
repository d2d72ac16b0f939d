"""Small archives on loopback that answer as archive.org, loc.gov and the Hugging Face hub do."""

from sandbox.archives.archives import ROUTES, SandboxArchives
from sandbox.archives.document_folder import DocumentFolder, SkippedLine
from sandbox.archives.documents import SandboxDocument, SourceSummary, summarise
from sandbox.archives.overlay_catalogue import write_catalogue
from sandbox.archives.serving import Fault

__all__ = [
    "ROUTES",
    "DocumentFolder",
    "Fault",
    "SandboxArchives",
    "SandboxDocument",
    "SkippedLine",
    "SourceSummary",
    "summarise",
    "write_catalogue",
]
