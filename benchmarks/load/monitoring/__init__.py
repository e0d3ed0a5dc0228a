"""The server under test: starting it, and sampling its statistics and the use of its processes."""
