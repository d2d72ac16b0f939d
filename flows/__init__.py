"""WHEN: one file, one flow, one deployment."""
