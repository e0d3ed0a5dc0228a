"""Folders of the source tree that tests use."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
CHECKPOINT = ROOT / "demo" / "checkpoint"
DATASET = ROOT / "demo" / "dataset"
