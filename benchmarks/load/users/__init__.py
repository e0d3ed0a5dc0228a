"""Locust's users: what they send, how, and when."""
