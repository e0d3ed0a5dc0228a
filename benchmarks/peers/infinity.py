"""Infinity, which cannot serve this architecture: what was tried and how it failed."""

from __future__ import annotations

# Tried on the demo's checkpoint: `select_model(EngineArgs(engine="torch", device="cpu"))`.
REASON = (
    "infinity-emb 0.0.78 treats every checkpoint with a vision_config as a CLIP model and fails "
    "with `AssertionError: AutoModel of ... does not have get_text_features method`; the only Qwen "
    "model that it supports is ColQwen2"
)


def reason_to_skip() -> str | None:
    """Returns the reason why Infinity cannot be run; None if it can."""
    return REASON
