"""Documents of the user's own: a tree of files of any kind, each format read by one small function."""
