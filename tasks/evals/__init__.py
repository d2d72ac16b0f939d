"""What the adapter changed: behaviour, source preference, perplexity by band, distrust signal."""
