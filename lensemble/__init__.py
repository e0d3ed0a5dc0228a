"""Qwen3-VL multimodal embeddings and FAISS search, served as one NVIDIA Triton ensemble.

The sub-packages, in the order in which an item passes through them:

    preprocess    encoded pictures and texts -> token ids and patch rows
    encoder       token ids and patch rows -> unit vectors, without padding
    index         vectors -> nearest items; the store of items

`stages` makes Triton models of them, and `pipeline` runs the first two in one process. `scheduling`
decides what is computed next, `embedders` holds the other embedders, `gateway` is the HTTP API, and
`operations` starts and watches the server.
"""

__version__ = "0.1.0"
