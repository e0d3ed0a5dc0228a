"""LangChain's OpenAIEmbeddings against the gateway, with LangChain's vector store in memory.

    lensemble up --checkpoint demo/checkpoint --gateway

    python examples/langchain_search.py notes.txt "coche rojo"

Each line of the file is a document. `check_embedding_ctx_length=False` makes LangChain send texts;
by default it sends token ids of OpenAI's tokenizer, which the gateway refuses.
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
given = parser.parse_args()

store = InMemoryVectorStore(
    OpenAIEmbeddings(
        base_url=given.url,
        api_key=SecretStr(given.key),
        model="native",
        check_embedding_ctx_length=False,
        chunk_size=64,  # texts in a request; the gateway takes 256
    )
)
lines = given.file.read_text().splitlines()
store.add_documents(
    [
        Document(line, metadata={"line": number})
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
)
for document, score in store.similarity_search_with_score(given.query, k=given.top_k):
    print(f"{score:.4f}  {document.metadata['line']}: {document.page_content}")
