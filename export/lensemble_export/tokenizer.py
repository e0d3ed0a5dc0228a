"""Trains a byte-level BPE tokenizer with Qwen's special tokens, for checkpoints of other shapes.

It has Qwen2's normalizer and splitting rule, Qwen's special tokens in Qwen's order, and a
vocabulary of any size. It learns its merges from a short English and Spanish text and from the
Python language reference, which is part of CPython.
"""

from __future__ import annotations

import json
import pydoc_data.topics
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from lensemble.preprocess.prompt import ENDOFTEXT, IM_END

# In the order of the published checkpoints, whose first special token has the id 151,643.
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.content is string -%}
{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' or 'image' in part -%}
<|vision_start|><|image_pad|><|vision_end|>
{%- elif 'text' in part -%}
{{ part.text }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""


def train_tokenizer(
    vocab_size: int, *, append_endoftext: bool, texts: Iterable[str] | None = None
) -> Tokenizer:
    """Trains a tokenizer.

    Args:
        vocab_size: number of ids, including special tokens.
        append_endoftext: whether the tokenizer ends every text with `<|endoftext|>`, as the
            tokenizers of the published Embedding checkpoints are said to do.
        texts: texts to learn the merges from; None takes the built-in ones.

    Returns:
        The tokenizer; its last ids are the special tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_built_in_texts() if texts is None else texts, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    byte_level = processors.ByteLevel(trim_offsets=False)
    if append_endoftext:
        end = tokenizer.token_to_id(ENDOFTEXT)
        template = processors.TemplateProcessing(
            single=f"$A {ENDOFTEXT}",
            pair=f"$A {ENDOFTEXT} $B {ENDOFTEXT}",
            special_tokens=[(ENDOFTEXT, end)],
        )
        tokenizer.post_processor = processors.Sequence([byte_level, template])
    else:
        tokenizer.post_processor = byte_level
    return tokenizer


def _built_in_texts() -> list[str]:
    lines = (resources.files(__package__) / "tokenizer_texts.txt").read_text("utf-8").splitlines()
    return [*lines * 8, *pydoc_data.topics.topics.values()]


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes the tokenizer and a chat template in the files that `AutoProcessor` reads."""
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "eos_token": IM_END,
                "pad_token": ENDOFTEXT,
                "model_max_length": 262_144,
                "clean_up_tokenization_spaces": False,
            },
            indent=2,
        )
    )
