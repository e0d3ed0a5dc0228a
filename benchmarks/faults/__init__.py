"""Faults: how a supervised server and its callers behave when something goes wrong."""
