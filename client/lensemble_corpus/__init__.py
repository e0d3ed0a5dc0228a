"""Tables of pictures and texts: rows in, a folder of embeddings out, resumable."""
