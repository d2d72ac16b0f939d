"""ON WHAT: server, pools, limits, blocks and deployments, applied by one idempotent command."""
