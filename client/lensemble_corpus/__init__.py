"""Corpora on disk: items in folders and tables, and folders with the embeddings of such items.

`entries` reads the items of a folder, and `source` the rows of a folder or a table.
`embedding_folder` embeds the rows through a server and writes their vectors; thanks to `journal` it
continues after an interruption.
"""
