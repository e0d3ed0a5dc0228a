"""Stage 1: the texts and pictures of an item become token ids and patch rows."""
