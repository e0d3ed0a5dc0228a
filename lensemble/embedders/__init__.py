"""Embedders beside the native one: CLIP, and the hybrid of a chat and a sentence model."""
