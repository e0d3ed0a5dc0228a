"""Asks a question about a corpus; prints the answer while it is written, then its sources.

It needs an OpenAI-compatible chat server, and a server with an index (search_photos.py fills one):

    export LENSEMBLE_GATEWAY_CHAT=http://127.0.0.1:9000/v1 LENSEMBLE_GATEWAY_CHAT_MODEL=MODEL
    lensemble up --checkpoint demo/checkpoint --index data/photos --gateway

    python examples/ask_with_sources.py "What is red in these pictures?"
"""

import argparse
import json

import httpx

parser = argparse.ArgumentParser(description="Ask a question about a corpus.")
parser.add_argument("question")
parser.add_argument("-k", "--top-k", type=int, default=3, help="sources to show to the chat server")
parser.add_argument("--max-tokens", type=int, default=256)
parser.add_argument("--url", default="http://127.0.0.1:8080")
parser.add_argument("--key", help="the gateway's key, if it asks for one")
arguments = parser.parse_args()

body = {
    "input": arguments.question,
    "top_k": arguments.top_k,
    "max_tokens": arguments.max_tokens,
    "stream": True,
}
headers = {"Authorization": f"Bearer {arguments.key}"} if arguments.key else {}
sources = []
url = f"{arguments.url}/v1/rag"
with httpx.stream("POST", url, json=body, headers=headers, timeout=120) as stream:
    if stream.is_error:
        raise SystemExit(f"error: {json.loads(stream.read())['error']['message']}")
    for line in stream.iter_lines():
        if not line.startswith("data: ") or line == "data: [DONE]":
            continue
        event = json.loads(line.removeprefix("data: "))
        sources += event.get("sources", [])  # only in the first event
        for choice in event.get("choices", []):
            print(choice["delta"].get("content") or "", end="", flush=True)
print()
for source in sources:
    shown = "with its picture" if source["picture"] else "document only"
    print(f"[{source['number']}] {source['score']:.4f}  {source['id']}  ({shown})")
