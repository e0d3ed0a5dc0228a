"""Infinity: cannot serve this architecture; what was tried, and how it failed."""

from __future__ import annotations

REASON = (
    "infinity-emb 0.0.78 takes every checkpoint with a vision_config for one like CLIP, and ends "
    "with `AssertionError: AutoModel of ... does not have get_text_features method`; what it knows "
    "of Qwen is ColQwen2"
)
"""Tried on the demo's checkpoint: `select_model(EngineArgs(engine="torch", device="cpu"))`."""


def available() -> str | None:
    """Why it cannot be run; None if it can."""
    return REASON
