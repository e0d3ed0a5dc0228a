"""OpenAI's own client against the gateway: texts, and pictures with or without words.

    lensemble up --checkpoint demo/checkpoint --gateway

    python examples/openai_client.py demo/dataset/images/1f697.webp "the same, but green"

OpenAI's client sends whatever stands in `input`; its type hints know texts only, hence `Any`.
`extra_body` carries fields that it has no argument for.
"""

import argparse
import base64
from pathlib import Path
from typing import Any

import numpy as np
from openai import OpenAI

parser = argparse.ArgumentParser(description="Compare a picture, a text, and both.")
parser.add_argument("picture", type=Path)
parser.add_argument("text", nargs="?", default="a red car")
parser.add_argument("--instruction", help="replaces the model's own")
parser.add_argument("--url", default="http://127.0.0.1:8080/v1")
parser.add_argument("--key", default="none", help="the gateway's key, if it asks for one")
given = parser.parse_args()

# Whatever kind it says, the gateway goes by the bytes.
url = f"data:image/jpeg;base64,{base64.b64encode(given.picture.read_bytes()).decode()}"
items: dict[str, Any] = {
    "text": given.text,
    "picture": {"image": url},
    "both": {"text": given.text, "image": url},
    "in parts": [  # as in a chat: the same item as `both`
        {"type": "text", "text": given.text},
        {"type": "image_url", "image_url": {"url": url}},
    ],
}
sent: Any = list(items.values())
with OpenAI(base_url=given.url, api_key=given.key) as client:
    extra = {"instruction": given.instruction}
    answer = client.embeddings.create(model="native", input=sent, extra_body=extra)

# An item that failed has no vector and an error in its place.
for name, entry in zip(items, answer.data, strict=True):
    if entry.embedding is None:
        raise SystemExit(f"{name}: {(entry.model_extra or {})['error']['message']}")
vectors = np.array([entry.embedding for entry in answer.data])
print(
    f"{len(vectors)} vectors of {vectors.shape[1]} dimensions, {answer.usage.total_tokens} tokens"
)
for name, row in zip(items, vectors @ vectors.T, strict=True):  # of unit length: their cosines
    print(f"{name:8}", *(f"{cosine:7.4f}" for cosine in row))
