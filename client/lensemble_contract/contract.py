"""The wire contract between callers and Triton models: names, dtypes, shapes, limits.

This is the only Python module that spells the name of a tensor.
`model_repository/*/config.pbtxt` repeats the names, because Triton needs literal text;
`tests/contract` compares the two.

Shapes are those of one row. On the wire every tensor has a leading batch dimension B. All rows of
a request must have the same shape, so shorter ones are filled up: `input_ids` with `PAD_ID`,
`patches` and `image_grid_thw` with zeros along the first axis of their shape. The ids and the grid
show which entries are padding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

# Written into the config.pbtxt of every model that runs as a process; such a model refuses to load
# with another version.
CONTRACT_VERSION = 5

# Rows of one request, and rows that Triton hands to one `execute` call.
MAX_BATCH_SIZE = 64

# uint8 values in one patch: 3 channels x 16 x 16 pixels (Qwen3-VL: patch_size 16).
PATCH_VALUES = 768

# Padding in `input_ids`.
PAD_ID = -1

MAX_IMAGES_PER_ITEM = 16
MAX_IMAGE_BYTES = 20 * 1024 * 1024
# Width x height of the encoded picture, read from its header before any pixel is decoded.
MAX_IMAGE_PIXELS = 64_000_000
# Longer side over shorter side; the limit of the reference (qwen-vl-utils `MAX_RATIO`).
MAX_ASPECT_RATIO = 200
# UTF-8 bytes of one text or instruction, checked before it is tokenized.
MAX_TEXT_BYTES = 1024 * 1024

DEFAULT_TOP_K = 10
MAX_TOP_K = 1000
MAX_EXCLUDED = 1000

# Items in one answer to `list`.
DEFAULT_LIST_LIMIT = 100
MAX_LIST_LIMIT = 1000

# Padding in `ids` where a row of a request has fewer hits than another row. The score of such an
# entry is -1, and its document is `{}`.
NO_ID = b""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input or output of a model.

    Attributes:
        name: Name on the wire.
        dtype: Triton's name without `TYPE_`: STRING (bytes), INT32, INT64, UINT8 or FP32.
        dims: Shape of one row; -1 is any length, including 0.
        optional: Whether a request may leave it out.
    """

    name: str
    dtype: str
    dims: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Model:
    """One Triton model: its inputs, outputs and request parameters.

    Attributes:
        name: Name in the model repository.
        inputs: Input tensors.
        outputs: Output tensors.
        parameters: Request parameters of the model's own work. `TIMEOUT_MS` and `PING`, which all
            kinds of models read, are not listed.
        steps: Names of the models that an ensemble runs, in order; empty for other models.
        time_output: The output with the model's working time; None if there is none. An ensemble
            has None here, and the times of its steps among its outputs.
    """

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    parameters: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    time_output: Tensor | None = None

    def with_outputs(self, *outputs: Tensor) -> Model:
        """Returns the same model with only these outputs, so that a request asks for no others."""
        return replace(self, outputs=outputs)


TEXT = Tensor("text", "STRING", (1,), optional=True)
IMAGE = Tensor("image", "STRING", (-1,), optional=True)
INSTRUCTION = Tensor("instruction", "STRING", (1,), optional=True)
INPUT_IDS = Tensor("input_ids", "INT32", (-1,))
PATCHES = Tensor("patches", "UINT8", (-1, PATCH_VALUES))
IMAGE_GRID_THW = Tensor("image_grid_thw", "INT32", (-1, 3))
# The moment after which nobody waits for the answer: nanoseconds of the server's CLOCK_MONOTONIC; 0
# is never. An item whose deadline has passed is not computed.
DEADLINE = Tensor("deadline", "INT64", (1,))
# Tokens in the item's prompt, pictures included; `usage` in the HTTP API counts these.
TOKENS = Tensor("tokens", "INT32", (1,))
EMBEDDING = Tensor("embedding", "FP32", (-1,))
# Hash of the profile under which the embedding was made. Only embeddings of the same profile can be
# compared.
VECTOR_PROFILE = Tensor("profile", "STRING", (1,))
IDS = Tensor("ids", "STRING", (-1,))
SCORES = Tensor("scores", "FP32", (-1,))
DOCUMENTS = Tensor("documents", "STRING", (-1,))
# JSON text: list of texts for people about the filter, such as a field that no document has.
WARNINGS = Tensor("warnings", "STRING", (1,))

ID = Tensor("id", "STRING", (1,))
DOCUMENT = Tensor("document", "STRING", (1,))
SEQUENCE = Tensor("sequence", "INT64", (1,))
STORED_DOCUMENT = Tensor("stored_document", "STRING", (1,))
STORED_DIGEST = Tensor("stored_digest", "STRING", (1,))
STORED_EMBEDDING = Tensor("stored_embedding", "FP32", (-1,))

# What `ingest` answers about the steps before `store`. These figures go through `store`, because
# Triton drops every step of an ensemble of which nobody wants an output: if `ingest` gave the times
# of `qwen3_vl` directly, a request for them alone would be answered, and nothing would be stored.
# Length 1 in requests of `ingest`, and 0 in requests to `store` itself.
CARRIED_TOKENS = Tensor("carried_tokens", "INT32", (-1,))
CARRIED_PREPROCESS_MS = Tensor("carried_preprocess_ms", "FP32", (-1,))
CARRIED_ENCODE_MS = Tensor("carried_encode_ms", "FP32", (-1,))

# An item's pictures, resized for CLIP and not yet normalized. The axes are picture, height, width
# and colour (RGB).
PIXELS = Tensor("pixels", "UINT8", (-1, -1, -1, 3))
# Number of pictures that the item has in `pixels`; any further pictures there are padding.
PICTURE_COUNT = Tensor("pictures", "INT32", (1,))
# The text that the caller sent with the item, beside the description that the chat model writes;
# empty if the item has no text.
OWN_TEXT = Tensor("own_text", "STRING", (1,))
# An item's pictures as JPEG files for the chat model; empty bytes are padding.
JPEGS = Tensor("jpegs", "STRING", (-1,))
# The chat model's description of an item's pictures; empty if the item has no pictures.
DESCRIPTION = Tensor("description", "STRING", (1,))
# Tokens that the chat server counted for the item; 0 if it was not called or does not count.
CHAT_TOKENS = Tensor("chat_tokens", "INT32", (1,))

# Milliseconds for which the stage worked on the batch that contained the item; waiting is not
# included.
PREPROCESS_MS = Tensor("preprocess_ms", "FP32", (1,))
ENCODE_MS = Tensor("encode_ms", "FP32", (1,))
SEARCH_MS = Tensor("search_ms", "FP32", (1,))
STORE_MS = Tensor("store_ms", "FP32", (1,))
STAGE_TIMES = (PREPROCESS_MS, ENCODE_MS, SEARCH_MS, STORE_MS)

# Names of request parameters. Each comment begins with the type of the value.

# int: Matryoshka length of the vector. If absent: the profile's full length, which `faiss` and
# `store` cut to the length of the index.
DIMENSIONS = "dimensions"
# int: largest number of hits; `DEFAULT_TOP_K` if absent.
TOP_K = "top_k"
# JSON text: condition on documents (docs/index.md); no condition if absent.
FILTER = "filter"
# JSON text: list of ids that must not be among the hits.
EXCLUDE = "exclude"
# Number, or text with a number: smallest score of a hit.
MIN_SCORE = "min_score"
# Text, for `faiss`: id of the stored item whose neighbours are wanted. `embedding` then has
# the length 0.
LIKE = "like"
# Text: hash of the profile under which the vectors of the request were made. A request with another
# profile than the server's is refused.
PROFILE = "profile"
# Text, for `store`: one of `OPERATIONS`; upsert if absent.
OPERATION = "operation"
# Text: digest of the item to upsert (`Record.digest`). Only a request with one row may have it. If
# the store already has the item with the same digest and document, nothing is written. With
# `set_document`, the digest that the item has from now on.
DIGEST = "digest"
# int, for `list`: largest number of items; `DEFAULT_LIST_LIMIT` if absent.
LIMIT = "limit"
# Number, or text with a number: milliseconds for which the caller waits for the answer, from the
# moment at which the first model begins with the request. Without it, the request has no deadline.
TIMEOUT_MS = "timeout_ms"
# bool, for every model that runs as a process: the request only asks whether the model can do its
# work, and the rows of the request are ignored. If it can, each output of the answer is one row of
# zeros or empty strings (`items.blank_rows`). If it cannot, the answer is an error.
PING = "ping"

# What `store` does with its rows:
#
# upsert  writes `embedding` and `document` under `id`; returns the sequence number
# delete  removes `id`; returns the sequence number of the removal, 0 if there was no such item
# get     returns sequence number, document, digest and vector of `id`; 0 and empty values if there
#         is no such item
# stats   returns the description of the index as JSON in `stored_document`; `id` is ignored
# list    returns items that match `filter`, in the order of their ids, from the first id after `id`
#         on: in `stored_document` the JSON object {"items": [{"id", "sequence", "digest",
#         "document"}, ...], "next": ID}. `next` is the `id` of the request for the items after
#         these, and null if there are none. There may be fewer items than `limit`, even none,
#         although more follow: one answer looks at a limited number of items and bytes.
# count   returns the number of items that match `filter`: {"count": N} in `stored_document`
#
# These change a document and keep the vector. Like `delete`, they return 0 if there is no item:
#
# patch          merges `document` into the stored one (RFC 7396: null removes a field)
# set_document   replaces the stored document by `document`
UPSERT, DELETE, GET, STATS = "upsert", "delete", "get", "stats"
LIST, COUNT, PATCH, SET_DOCUMENT = "list", "count", "patch", "set_document"
OPERATIONS = (UPSERT, DELETE, GET, STATS, LIST, COUNT, PATCH, SET_DOCUMENT)
# Those that change the index.
WRITING_OPERATIONS = (UPSERT, DELETE, PATCH, SET_DOCUMENT)

# Tensors and parameters that several models share.
ITEM = (TEXT, IMAGE, INSTRUCTION)
FEATURES = (INPUT_IDS, PATCHES, IMAGE_GRID_THW)
HITS = (IDS, SCORES, DOCUMENTS)
CARRIED = (CARRIED_TOKENS, CARRIED_PREPROCESS_MS, CARRIED_ENCODE_MS)
SEARCH_PARAMETERS = (DIMENSIONS, TOP_K, FILTER, EXCLUDE, MIN_SCORE)

PARAMETERS = (*SEARCH_PARAMETERS, LIKE, PROFILE, OPERATION, DIGEST, LIMIT, TIMEOUT_MS, PING)

PREPROCESS = Model(
    "preprocess", ITEM, (*FEATURES, DEADLINE, TOKENS, PREPROCESS_MS), time_output=PREPROCESS_MS
)
QWEN3_VL = Model(
    "qwen3_vl",
    (*FEATURES, DEADLINE),
    (EMBEDDING, VECTOR_PROFILE, ENCODE_MS),
    (DIMENSIONS,),
    time_output=ENCODE_MS,
)
FAISS = Model(
    "faiss",
    (EMBEDDING,),
    (*HITS, WARNINGS, SEARCH_MS),
    (*SEARCH_PARAMETERS, LIKE, PROFILE),
    time_output=SEARCH_MS,
)
STORE = Model(
    "store",
    (EMBEDDING, ID, DOCUMENT, *CARRIED),
    (
        SEQUENCE,
        STORED_DOCUMENT,
        STORED_DIGEST,
        STORED_EMBEDDING,
        TOKENS,
        PREPROCESS_MS,
        ENCODE_MS,
        STORE_MS,
    ),
    (DIMENSIONS, OPERATION, DIGEST, PROFILE, FILTER, LIMIT),
    time_output=STORE_MS,
)
EMBED = Model(
    "embed",
    ITEM,
    (EMBEDDING, VECTOR_PROFILE, TOKENS, PREPROCESS_MS, ENCODE_MS),
    (DIMENSIONS,),
    ("preprocess", "qwen3_vl"),
)
# `embedding` is not an output of `search`. If it were, every request that does not ask for it would
# fail: Triton leaves out an output that nobody asked for, even if a later step needs it
# (docs/decisions.md).
SEARCH = Model(
    "search",
    ITEM,
    (*HITS, WARNINGS, TOKENS, PREPROCESS_MS, ENCODE_MS, SEARCH_MS),
    SEARCH_PARAMETERS,
    ("preprocess", "qwen3_vl", "faiss"),
)
# All outputs come from `store`, so there is no answer without a write: see `CARRIED_TOKENS`.
INGEST = Model(
    "ingest",
    (*ITEM, ID, DOCUMENT),
    (SEQUENCE, TOKENS, PREPROCESS_MS, ENCODE_MS, STORE_MS),
    (DIMENSIONS, DIGEST),
    ("preprocess", "qwen3_vl", "store"),
)

# Name -> model, for the models that every server has.
MODELS = {
    model.name: model for model in (PREPROCESS, QWEN3_VL, FAISS, STORE, EMBED, SEARCH, INGEST)
}

CLIP_PREPROCESS = Model(
    "clip_preprocess",
    ITEM,
    (INPUT_IDS, PIXELS, PICTURE_COUNT, DEADLINE, TOKENS, PREPROCESS_MS),
    time_output=PREPROCESS_MS,
)
CLIP = Model(
    "clip",
    (INPUT_IDS, PIXELS, PICTURE_COUNT, DEADLINE),
    (EMBEDDING, VECTOR_PROFILE, ENCODE_MS),
    (DIMENSIONS,),
    time_output=ENCODE_MS,
)
EMBED_CLIP = Model("embed_clip", ITEM, EMBED.outputs, (DIMENSIONS,), ("clip_preprocess", "clip"))

HYBRID_PREPROCESS = Model("hybrid_preprocess", ITEM, (OWN_TEXT, JPEGS, DEADLINE))
DESCRIBE = Model(
    "describe",
    (OWN_TEXT, JPEGS, DEADLINE),
    (DESCRIPTION, CHAT_TOKENS, PREPROCESS_MS),
    time_output=PREPROCESS_MS,
)
SENTENCE = Model(
    "sentence",
    (OWN_TEXT, DESCRIPTION, CHAT_TOKENS),
    (EMBEDDING, VECTOR_PROFILE, TOKENS, ENCODE_MS),
    (DIMENSIONS,),
    time_output=ENCODE_MS,
)
EMBED_HYBRID = Model(
    "embed_hybrid",
    ITEM,
    EMBED.outputs,
    (DIMENSIONS,),
    ("hybrid_preprocess", "describe", "sentence"),
)

NATIVE, HYBRID, CLIP_EMBEDDER = "native", "hybrid", "clip"
# The name of each embedder -> its ensemble. All have the same inputs and the same outputs.
EMBEDDERS = {NATIVE: EMBED, HYBRID: EMBED_HYBRID, CLIP_EMBEDDER: EMBED_CLIP}
# The embedders that accept an instruction; the others refuse it.
EMBEDDERS_WITH_INSTRUCTION = (NATIVE,)
# Embedder -> the models that a server has only if it was started with that embedder.
EMBEDDER_MODELS = {
    HYBRID: (HYBRID_PREPROCESS, DESCRIBE, SENTENCE, EMBED_HYBRID),
    CLIP_EMBEDDER: (CLIP_PREPROCESS, CLIP, EMBED_CLIP),
}
# Name -> model, for all models that a server may have.
ALL_MODELS = MODELS | {model.name: model for models in EMBEDDER_MODELS.values() for model in models}
# Name -> model, for the models that run as processes. All others are ensembles of these.
PROCESS_MODELS = {name: model for name, model in ALL_MODELS.items() if not model.steps}
