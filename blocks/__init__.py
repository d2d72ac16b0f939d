"""WITH WHOM: typed connections and secrets, kept by the Prefect server."""
