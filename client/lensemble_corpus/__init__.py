"""Corpora on disk: items in folders and tables, and the folder of embeddings made from them.

`entries` reads the items of a folder, `source` the rows of a table. `embedding_folder` embeds them
through a server, continues after an interruption (`journal`), and writes their vectors.
"""
