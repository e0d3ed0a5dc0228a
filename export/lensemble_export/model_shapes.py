"""Shapes of Qwen3-VL models by name: the published ones and three small ones.

`tiny` is for tests. `emoji` is the shape of the demo's checkpoint. `small`, with about 100 million
parameters, is for benchmarks on CPUs: it is large enough that arithmetic takes most of the time.

The numbers of `2b`, `4b` and `8b` come from the published `config.json` files of
Qwen3-VL-{2B,4B,8B}-Instruct; the Embedding checkpoints have the same numbers. Speed and memory can
be measured with random weights in these shapes.
"""

from __future__ import annotations

from typing import Any

# Rows of the published token embedding: the tokenizer's 151,669 ids, rounded up.
QWEN_VOCAB_SIZE = 151_936

_TEXT_PUBLISHED: dict[str, Any] = {
    "head_dim": 128,
    "num_key_value_heads": 8,
    "max_position_embeddings": 262_144,
    "vocab_size": QWEN_VOCAB_SIZE,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 5_000_000,
        "mrope_section": [24, 20, 20],
        "mrope_interleaved": True,
    },
}
_ROPE_64: dict[str, Any] = {
    "rope_type": "default",
    "rope_theta": 5_000_000,
    "mrope_section": [12, 10, 10],  # adds up to half the head dimension
    "mrope_interleaved": True,
}
_VISION_2B_4B: dict[str, Any] = {
    "hidden_size": 1024,
    "depth": 24,
    "num_heads": 16,
    "intermediate_size": 4096,
    "deepstack_visual_indexes": [5, 11, 17],
}

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "text": {
            "hidden_size": 256,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 64,
            "intermediate_size": 768,
            "max_position_embeddings": 32_768,
            "vocab_size": 8192,
            "rope_parameters": _ROPE_64,
        },
        "vision": {
            "hidden_size": 192,
            "depth": 4,
            "num_heads": 4,
            "intermediate_size": 768,
            "out_hidden_size": 256,
            "deepstack_visual_indexes": [0, 1, 2],
        },
        "tie_word_embeddings": True,
    },
    "emoji": {
        "text": {
            "hidden_size": 192,
            "num_hidden_layers": 4,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "head_dim": 64,
            "intermediate_size": 512,
            "max_position_embeddings": 32_768,
            "vocab_size": 4096,
            "rope_parameters": _ROPE_64,
        },
        "vision": {
            "hidden_size": 128,
            "depth": 4,
            "num_heads": 4,
            "intermediate_size": 512,
            "out_hidden_size": 192,
            "num_position_embeddings": 256,
            "deepstack_visual_indexes": [0, 1, 2],
        },
        "tie_word_embeddings": True,
    },
    "small": {
        "text": {
            "hidden_size": 512,
            "num_hidden_layers": 14,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 64,
            "intermediate_size": 1536,
            "max_position_embeddings": 32_768,
            "vocab_size": 8192,
            "rope_parameters": _ROPE_64,
        },
        "vision": {
            "hidden_size": 448,
            "depth": 12,
            "num_heads": 7,
            "intermediate_size": 1792,
            "out_hidden_size": 512,
            "deepstack_visual_indexes": [2, 5, 8],
        },
        "tie_word_embeddings": True,
    },
    "2b": {
        "text": {
            **_TEXT_PUBLISHED,
            "hidden_size": 2048,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "intermediate_size": 6144,
        },
        "vision": {**_VISION_2B_4B, "out_hidden_size": 2048},
        "tie_word_embeddings": True,
    },
    "4b": {
        "text": {
            **_TEXT_PUBLISHED,
            "hidden_size": 2560,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "intermediate_size": 9728,
        },
        "vision": {**_VISION_2B_4B, "out_hidden_size": 2560},
        "tie_word_embeddings": True,
    },
    "8b": {
        "text": {
            **_TEXT_PUBLISHED,
            "hidden_size": 4096,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "intermediate_size": 12_288,
        },
        "vision": {
            "hidden_size": 1152,
            "depth": 27,
            "num_heads": 16,
            "intermediate_size": 4304,
            "out_hidden_size": 4096,
            "deepstack_visual_indexes": [8, 16, 24],
        },
        "tie_word_embeddings": False,
    },
}
