"""Locust's users: what they send, when, and over which protocol."""
