"""Snapshots: what the store held at one moment, as a FAISS index."""
