"""From scored documents to a balanced, deduplicated, split set of training samples."""
