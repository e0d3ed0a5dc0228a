"""Qwen3-VL multimodal embeddings and FAISS search, served as one NVIDIA Triton ensemble.

The modules are the way of the data:

    image, prompt, preprocess       encoded bytes and text -> ids and patch rows
    packing, encoder, pooling       ids and patch rows -> unit vectors, without padding
    index                           vectors -> nearest items

`stages` joins them to the wire, `triton` to Triton, `pipeline` to each other in one process.
"""

__version__ = "0.1.0"
