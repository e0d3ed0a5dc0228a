"""Starting, watching, restarting, logging and checking a server."""
