"""Stage 1: a picture and a text become token ids and patch rows."""
