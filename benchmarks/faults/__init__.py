"""What happens to a supervised server, and to its callers, when something goes wrong."""
