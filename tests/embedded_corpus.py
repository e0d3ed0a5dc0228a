"""A table of texts, and the folder of its embeddings, which a fake server makes."""

import json

import numpy as np

from lensemble_client import Client, Item, Retry, testing
from lensemble_corpus.embedding_folder import embed_source
from lensemble_corpus.embedding_run import PROBE_TEXT
from lensemble_corpus.embeddings_manifest import EmbeddingsManifest
from lensemble_corpus.source import Source

# Dimension of the vectors.
D = 4
ROWS = [{"id": n, "text": f"text {n}", "kind": "even" if n % 2 == 0 else "odd"} for n in range(10)]


def vector_of(content):
    """Returns the vector that the fake server makes of a text, or of the bytes of a picture."""
    item = Item(images=(content,)) if isinstance(content, bytes) else Item(content)
    return testing.vector_of(item, D)


class EmbeddedCorpus:
    """A table, the folder of its embeddings, and runs that embed it.

    Attributes:
        path: File with the rows.
        out: Folder of the embeddings.
        server: Fake server, which records the items of the last run.
        transport: Transport to the fake server.
    """

    def __init__(self, folder):
        self.path, self.out = folder / "rows.json", folder / "out"
        self.server = testing.FakeServer(dimension=D, profile="sha256:a")
        self.transport = testing.FakeTransport(self.server)
        self.write(ROWS)

    @property
    def sent(self):
        """The pictures and texts of rows that the last run sent."""
        sent = [item.images[0] if item.images else item.text for item in self.server.embedded]
        return [content for content in sent if content != PROBE_TEXT]

    def write(self, rows):
        self.path.write_text(json.dumps(rows))

    def run(self, template="{text}", **options):
        self.server.embedded.clear()
        client = Client(transport=self.transport, retry=Retry(tries=1))
        source = Source(self.path, text=template, id_field="id")
        return embed_source(client, source, self.out, **options)

    def check(self, rows):
        """Checks that the folder contains these rows, their vectors, and no other files."""
        vectors = np.load(self.out / "embeddings.npy", mmap_mode="r")
        assert vectors.dtype == np.float32
        np.testing.assert_array_equal(vectors, [vector_of(row["text"]) for row in rows])
        metadata = json.loads((self.out / "metadata.json").read_text())
        assert metadata == [{**row, "embedding_index": n} for n, row in enumerate(rows)]
        assert EmbeddingsManifest.load(self.out).count == len(rows)
        assert sorted(path.name for path in self.out.iterdir()) == [
            "digests.txt",
            "embeddings.npy",
            "failed.json",
            "manifest.json",
            "metadata.json",
            "work",
        ]
