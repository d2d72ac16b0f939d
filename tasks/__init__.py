"""WHAT: the modules here are Prefect tasks; the folders below are plain Python that does not know Prefect."""
