"""Trains the demo checkpoint: a small Qwen3-VL, from nothing, on emoji and their names.

In the order of the data: `concepts` (which pictures, what they are called, which are held out),
`render` (font -> pictures), `captions` (names -> texts), `augment` (pictures -> damaged pictures),
`batches`, `objective`, `train`, then `dataset` (what `lensemble eval` reads) and `publish` (the
checkpoint in Hugging Face format). `python -m demo.training` runs all of it.
"""
