"""Runs stages as models of Triton's Python backend."""

from lensemble.stages.python_backend.load import load_model

__all__ = ["load_model"]
