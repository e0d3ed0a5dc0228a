"""What passes between the caller and the Triton models: names, dtypes, shapes, limits.

The one place where a tensor's name is written. `model_repository/*/config.pbtxt` repeats it, as
Triton needs literal text; `tests/contract` compares the two.

Shapes are those of one row; on the wire every tensor has a leading batch dimension B. All rows of
one request have one shape, so shorter rows are filled up: `input_ids` with `PAD_ID`, `patches`
and `image_grid_thw` with zero rows. The grid and the ids tell what is real.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

CONTRACT_VERSION = 4
"""Written into every config.pbtxt; a model refuses to load under another one."""

MAX_BATCH_SIZE = 64
"""Rows of one request, and rows that Triton joins into one `execute` call."""

PATCH_VALUES = 768
"""uint8 values of one patch row: 3 channels x 16 x 16 pixels (Qwen3-VL: patch_size 16)."""

PAD_ID = -1
"""Stands in `input_ids` where a row is shorter than the longest row of its request."""

MAX_IMAGES_PER_ITEM = 16
MAX_IMAGE_BYTES = 20 * 1024 * 1024
MAX_IMAGE_PIXELS = 64_000_000
"""Width x height of the encoded picture, read from its header before any pixel is decoded."""
MAX_ASPECT_RATIO = 200
"""Longer side over shorter side; the limit of the reference (qwen-vl-utils `MAX_RATIO`)."""
MAX_TEXT_BYTES = 1024 * 1024
"""UTF-8 bytes of one text or instruction, checked before it is tokenized."""

DEFAULT_TOP_K = 10
MAX_TOP_K = 1000
MAX_EXCLUDED = 1000

NO_ID = b""
"""Stands in `ids` where a row of a request has fewer hits than another, with score -1 and document
`{}`."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input or output of a model.

    Attributes:
        name: Name on the wire.
        dtype: Triton's word without `TYPE_`: STRING (bytes), INT32, INT64, UINT8, FP32.
        dims: Shape of one row; -1 is any length, 0 included.
        optional: Whether a request may leave it out.
    """

    name: str
    dtype: str
    dims: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Model:
    """One Triton model: what it takes and gives.

    Attributes:
        name: Name in the model repository.
        inputs: Tensors it takes.
        outputs: Tensors it gives.
        parameters: Request parameters that it reads.
        steps: For an ensemble, the models it runs in order.
        time: The output that says how long its work took; None if it has none, as an ensemble,
            which has those of its steps.
    """

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    parameters: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    time: Tensor | None = None

    def with_outputs(self, *outputs: Tensor) -> Model:
        """Returns the same model with only these outputs, so that a request asks for no others."""
        return replace(self, outputs=outputs)


TEXT = Tensor("text", "STRING", (1,), optional=True)
IMAGE = Tensor("image", "STRING", (-1,), optional=True)
INSTRUCTION = Tensor("instruction", "STRING", (1,), optional=True)
INPUT_IDS = Tensor("input_ids", "INT32", (-1,))
PATCHES = Tensor("patches", "UINT8", (-1, PATCH_VALUES))
IMAGE_GRID_THW = Tensor("image_grid_thw", "INT32", (-1, 3))
DEADLINE = Tensor("deadline", "INT64", (1,))
"""When nobody waits for the item any more: nanoseconds of the server's own CLOCK_MONOTONIC; 0 is
never. What is late is not computed."""
TOKENS = Tensor("tokens", "INT32", (1,))
"""How many tokens the item's prompt has, pictures included: what usage is counted in."""
EMBEDDING = Tensor("embedding", "FP32", (-1,))
MADE_UNDER = Tensor("profile", "STRING", (1,))
"""Hash of the profile that the embedding was made under: what it may be compared with."""
IDS = Tensor("ids", "STRING", (-1,))
SCORES = Tensor("scores", "FP32", (-1,))
DOCUMENTS = Tensor("documents", "STRING", (-1,))

ID = Tensor("id", "STRING", (1,))
DOCUMENT = Tensor("document", "STRING", (1,))
SEQUENCE = Tensor("sequence", "INT64", (1,))
STORED_DOCUMENT = Tensor("stored_document", "STRING", (1,))
STORED_DIGEST = Tensor("stored_digest", "STRING", (1,))
STORED_EMBEDDING = Tensor("stored_embedding", "FP32", (-1,))

PIXELS = Tensor("pixels", "UINT8", (-1, -1, -1, 3))
"""An item's pictures as CLIP sees them, but for scale and mean: pictures, height, width, RGB."""
PICTURES = Tensor("pictures", "INT32", (1,))
"""How many of `pixels` are the item's; the others are filling."""
OWN_TEXT = Tensor("own_text", "STRING", (1,))
"""The item's text; empty if it has none."""
JPEGS = Tensor("jpegs", "STRING", (-1,))
"""An item's pictures as the chat model is shown them; empty bytes are filling."""
DESCRIPTION = Tensor("description", "STRING", (1,))
"""What the chat model says of an item's pictures; empty if it has none."""
CHAT_TOKENS = Tensor("chat_tokens", "INT32", (1,))
"""What the chat server counted for it; 0 if it was not asked, or does not count."""

PREPROCESS_MS = Tensor("preprocess_ms", "FP32", (1,))
ENCODE_MS = Tensor("encode_ms", "FP32", (1,))
SEARCH_MS = Tensor("search_ms", "FP32", (1,))
STORE_MS = Tensor("store_ms", "FP32", (1,))
"""Milliseconds that the stage worked on the batch that the item was in, without any waiting."""
TIMES = (PREPROCESS_MS, ENCODE_MS, SEARCH_MS, STORE_MS)

DIMENSIONS = "dimensions"
"""Request parameter, int: Matryoshka length of the vector; the profile's full one if absent."""
TOP_K = "top_k"
"""Request parameter, int: how many nearest items to return; `DEFAULT_TOP_K` if absent."""
FILTER = "filter"
"""Request parameter, JSON text: a condition on documents (docs/index.md); none if absent."""
EXCLUDE = "exclude"
"""Request parameter, JSON text: list of ids that are not to be found."""
MIN_SCORE = "min_score"
"""Request parameter, a number or its text: only items with this score or more."""
LIKE = "like"
"""Request parameter, text, of `faiss`: find the neighbours of this stored item; `embedding` then
has length 0."""
PROFILE = "profile"
"""Request parameter, text: hash of the profile that the vectors sent were made under; checked."""
OPERATION = "operation"
"""Request parameter, text, of `store`: one of `OPERATIONS`; upsert if absent."""
DIGEST = "digest"
"""Request parameter, text: of what the one item of an upsert was made from; the same digest and
document as before changes nothing."""

TIMEOUT_MS = "timeout_ms"
"""Request parameter, a number or its text: how long the caller waits for the answer; without it,
for ever. Counted from when the first model begins with the request."""
PING = "ping"
"""Request parameter, bool, of every model that is a process: the request's rows are not looked at.
The answer is blank rows if the model can do its work, and the error if it cannot."""

UPSERT, DELETE, GET, STATS = "upsert", "delete", "get", "stats"
OPERATIONS = (UPSERT, DELETE, GET, STATS)
"""What `store` does with its rows:

upsert  writes `embedding` and `document` under `id`; gives its sequence number
delete  removes `id`; gives the sequence number of that, 0 if there was no such item
get     gives the sequence number, document, digest and vector of `id`; 0 and nothing if it has none
stats   gives what the index is, as a JSON `document`; `id` is ignored
"""

ITEM = (TEXT, IMAGE, INSTRUCTION)
FEATURES = (INPUT_IDS, PATCHES, IMAGE_GRID_THW)
HITS = (IDS, SCORES, DOCUMENTS)
SEARCHING = (DIMENSIONS, TOP_K, FILTER, EXCLUDE, MIN_SCORE)

PARAMETERS = (*SEARCHING, LIKE, PROFILE, OPERATION, DIGEST, TIMEOUT_MS, PING)

PREPROCESS = Model(
    "preprocess", ITEM, (*FEATURES, DEADLINE, TOKENS, PREPROCESS_MS), time=PREPROCESS_MS
)
QWEN3_VL = Model(
    "qwen3_vl",
    (*FEATURES, DEADLINE),
    (EMBEDDING, MADE_UNDER, ENCODE_MS),
    (DIMENSIONS,),
    time=ENCODE_MS,
)
FAISS = Model(
    "faiss", (EMBEDDING,), (*HITS, SEARCH_MS), (*SEARCHING, LIKE, PROFILE), time=SEARCH_MS
)
STORE = Model(
    "store",
    (EMBEDDING, ID, DOCUMENT),
    (SEQUENCE, STORED_DOCUMENT, STORED_DIGEST, STORED_EMBEDDING, STORE_MS),
    (OPERATION, DIGEST, PROFILE),
    time=STORE_MS,
)
EMBED = Model(
    "embed",
    ITEM,
    (EMBEDDING, MADE_UNDER, TOKENS, PREPROCESS_MS, ENCODE_MS),
    (DIMENSIONS,),
    ("preprocess", "qwen3_vl"),
)
# Without the query's embedding: Triton cannot leave out an output that a later step needs, so
# asking for `ids` alone would fail.
SEARCH = Model(
    "search",
    ITEM,
    (*HITS, TOKENS, PREPROCESS_MS, ENCODE_MS, SEARCH_MS),
    SEARCHING,
    ("preprocess", "qwen3_vl", "faiss"),
)
INGEST = Model(
    "ingest",
    (*ITEM, ID, DOCUMENT),
    (SEQUENCE, TOKENS, PREPROCESS_MS, ENCODE_MS, STORE_MS),
    (DIGEST,),
    ("preprocess", "qwen3_vl", "store"),
)

MODELS = {
    model.name: model for model in (PREPROCESS, QWEN3_VL, FAISS, STORE, EMBED, SEARCH, INGEST)
}
"""What every server has."""

CLIP_PREPROCESS = Model(
    "clip_preprocess",
    ITEM,
    (INPUT_IDS, PIXELS, PICTURES, DEADLINE, TOKENS, PREPROCESS_MS),
    time=PREPROCESS_MS,
)
CLIP = Model(
    "clip",
    (INPUT_IDS, PIXELS, PICTURES, DEADLINE),
    (EMBEDDING, MADE_UNDER, ENCODE_MS),
    (DIMENSIONS,),
    time=ENCODE_MS,
)
EMBED_CLIP = Model("embed_clip", ITEM, EMBED.outputs, (DIMENSIONS,), ("clip_preprocess", "clip"))

HYBRID_PREPROCESS = Model("hybrid_preprocess", ITEM, (OWN_TEXT, JPEGS, DEADLINE))
DESCRIBE = Model(
    "describe",
    (OWN_TEXT, JPEGS, DEADLINE),
    (DESCRIPTION, CHAT_TOKENS, PREPROCESS_MS),
    time=PREPROCESS_MS,
)
SENTENCE = Model(
    "sentence",
    (OWN_TEXT, DESCRIPTION, CHAT_TOKENS),
    (EMBEDDING, MADE_UNDER, TOKENS, ENCODE_MS),
    (DIMENSIONS,),
    time=ENCODE_MS,
)
EMBED_HYBRID = Model(
    "embed_hybrid",
    ITEM,
    EMBED.outputs,
    (DIMENSIONS,),
    ("hybrid_preprocess", "describe", "sentence"),
)

NATIVE, HYBRID, CLIP_EMBEDDER = "native", "hybrid", "clip"
EMBEDDERS = {NATIVE: EMBED, HYBRID: EMBED_HYBRID, CLIP_EMBEDDER: EMBED_CLIP}
"""The ensembles that embed, by the name that a caller chooses them by: the same inputs, the same
outputs."""
INSTRUCTED = (NATIVE,)
"""The embedders that take an instruction; the others refuse it."""
OPTIONAL = {
    HYBRID: (HYBRID_PREPROCESS, DESCRIBE, SENTENCE, EMBED_HYBRID),
    CLIP_EMBEDDER: (CLIP_PREPROCESS, CLIP, EMBED_CLIP),
}
"""Embedder -> the models that a server has only if it was started with that embedder."""
ALL_MODELS = MODELS | {model.name: model for models in OPTIONAL.values() for model in models}
"""What a server may have."""
PROCESSES = {name: model for name, model in ALL_MODELS.items() if not model.steps}
"""Those that are processes; the others are ensembles of them."""
