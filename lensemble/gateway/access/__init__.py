"""Checks before a request's body is read: API key, scope, rate limit, and limits of size."""
