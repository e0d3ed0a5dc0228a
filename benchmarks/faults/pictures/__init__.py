"""Writes picture files byte by byte, without Pillow: odd kinds of pixels, and files that are traps.

Pixels are integers in the file's own depth, so a test knows what a file must decode to without
asking the decoder.
"""
