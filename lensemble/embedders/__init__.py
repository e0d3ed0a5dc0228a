"""The other embedders: CLIP, and the hybrid of a chat model and a sentence model."""
