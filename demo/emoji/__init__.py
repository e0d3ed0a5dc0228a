"""Emoji as data: pictures from a font, names in six languages, the evaluation dataset."""
