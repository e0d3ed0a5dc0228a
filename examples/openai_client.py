"""Compares a picture, a text, and both together, with OpenAI's own client and the gateway.

    lensemble up --checkpoint demo/checkpoint --gateway

    python examples/openai_client.py demo/dataset/images/1f697.webp "the same, but green"

OpenAI's client sends anything that is in `input`, but its type hints allow only texts, hence `Any`.
`extra_body` contains the fields for which the client has no argument.
"""

import argparse
import base64
from pathlib import Path
from typing import Any

import numpy as np
from openai import APIStatusError, OpenAI

parser = argparse.ArgumentParser(description="Compare a picture, a text, and both.")
parser.add_argument("picture", type=Path)
parser.add_argument("text", nargs="?", default="a red car")
parser.add_argument("--instruction", help="replaces the default instruction")
parser.add_argument("--url", default="http://127.0.0.1:8080/v1")
parser.add_argument("--key", default="none", help="the gateway's key, if it asks for one")
arguments = parser.parse_args()

# The gateway ignores the media type; it looks at the bytes.
url = f"data:image/jpeg;base64,{base64.b64encode(arguments.picture.read_bytes()).decode()}"
items: dict[str, Any] = {
    "text": arguments.text,
    "picture": {"image": url},
    "both": {"text": arguments.text, "image": url},
    "in parts": [  # as in a chat: the same item as `both`
        {"type": "text", "text": arguments.text},
        {"type": "image_url", "image_url": {"url": url}},
    ],
}
contents: Any = list(items.values())
with OpenAI(base_url=arguments.url, api_key=arguments.key) as client:
    extra = {"instruction": arguments.instruction}
    try:
        answer = client.embeddings.create(model="native", input=contents, extra_body=extra)
    except APIStatusError as error:  # such as an item that cannot be embedded: the message names it
        body = error.body if isinstance(error.body, dict) else {}
        raise SystemExit(body.get("message", error.message)) from None
vectors = np.array([entry.embedding for entry in answer.data])
print(
    f"{len(vectors)} vectors of {vectors.shape[1]} dimensions, {answer.usage.total_tokens} tokens"
)
cosines = vectors @ vectors.T  # the vectors have unit length
for name, row in zip(items, cosines, strict=True):
    print(f"{name:8}", *(f"{cosine:7.4f}" for cosine in row))
