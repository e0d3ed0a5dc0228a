"""Stage 2: features become vectors, packed in one row without padding."""
