"""Three small archives on loopback and a tiny base model: the whole pipeline with no network."""
