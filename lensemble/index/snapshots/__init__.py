"""Snapshots: the vectors of the store at one sequence number, as a FAISS index."""
