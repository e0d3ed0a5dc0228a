"""A transport that embeds without a server: vectors that follow from what is sent."""

import threading
import zlib

import numpy as np

DIMENSION = 4


def vector_of(content):
    seed = zlib.crc32(content if isinstance(content, bytes) else content.encode())
    vector = np.random.default_rng(seed).normal(size=DIMENSION).astype(np.float32)
    return vector / np.linalg.norm(vector)


class FakeTransport:
    """The vector of an item follows from its first picture, or else its text.

    Attributes:
        sent: What was asked for, item by item.
        errors: Text or picture -> what is said of it in place of a vector.
        profile: Under which vectors are made.
    """

    def __init__(self):
        self.sent, self.errors, self.profile = [], {}, "sha256:a"
        self._lock = threading.Lock()

    def infer(self, model, rows, parameters, timeout_s):
        name = "image" if "image" in rows else "text"
        contents = [row[0] if name == "image" else row[0].decode() for row in rows[name]]
        for content in contents:
            if content in self.errors:
                raise self.errors[content]
        with self._lock:
            self.sent += contents
        count = len(contents)
        made = {
            "embedding": np.array([vector_of(content) for content in contents]),
            "profile": np.array([[self.profile.encode()]] * count, np.object_),
            "tokens": np.ones((count, 1), np.int32),
        }
        times = {
            tensor.name: np.ones((count, 1)) for tensor in model.outputs if "_ms" in tensor.name
        }
        return {**made, **times}
