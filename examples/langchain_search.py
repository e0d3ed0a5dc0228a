"""Searches the lines of a file with LangChain: OpenAIEmbeddings asks the gateway for vectors.

    lensemble up --checkpoint demo/checkpoint --gateway

    python examples/langchain_search.py notes.txt "coche rojo"

Each line of the file is a document. `check_embedding_ctx_length=False` makes LangChain send texts;
by default it sends token ids of OpenAI's tokenizer, and the gateway refuses those.
"""

import argparse
from pathlib import Path

from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai import OpenAIEmbeddings
from pydantic import SecretStr

parser = argparse.ArgumentParser(description="Search the lines of a file.")
parser.add_argument("file", type=Path)
parser.add_argument("query")
parser.add_argument("-k", "--top-k", type=int, default=3)
parser.add_argument("--url", default="http://127.0.0.1:8080/v1")
parser.add_argument("--key", default="none", help="the gateway's key, if it asks for one")
arguments = parser.parse_args()

store = InMemoryVectorStore(
    OpenAIEmbeddings(
        base_url=arguments.url,
        api_key=SecretStr(arguments.key),
        model="native",
        check_embedding_ctx_length=False,
        chunk_size=64,  # texts in one request; the gateway accepts up to 256
    )
)
lines = arguments.file.read_text().splitlines()
store.add_documents(
    [
        Document(line, metadata={"line": number})
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
)
for document, score in store.similarity_search_with_score(arguments.query, k=arguments.top_k):
    print(f"{score:.4f}  {document.metadata['line']}: {document.page_content}")
