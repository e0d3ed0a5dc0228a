"""The vector cache: equal items are encoded once, and vectors are remembered by content."""
