"""Authority, provenance entropy and trivium of a document: scoring v1."""
