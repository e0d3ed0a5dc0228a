"""Decides when a request is encoded, refused, or dropped because its deadline has passed."""
