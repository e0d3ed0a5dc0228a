"""A tiny checkpoint in Hugging Face format, written without PyTorch or Transformers.

It has the files and tensors that a conversion checks, and no model that could compute.
"""

import json

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

from lensemble.preprocess import prompt

WEIGHTS = "model-00001-of-00001.safetensors"


def write_source_checkpoint(folder, *, tokenizer_appends_endoftext):
    folder.mkdir()
    tokenizer = make_tokenizer(tokenizer_appends_endoftext)
    tokenizer.save(str(folder / "tokenizer.json"))
    ids = tokenizer.get_vocab()
    config = {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        "text_config": {"hidden_size": 256, "vocab_size": len(ids)},
        "image_token_id": ids[prompt.IMAGE_PAD],
        "video_token_id": ids[prompt.VIDEO_PAD],
        "vision_start_token_id": ids[prompt.VISION_START],
        "vision_end_token_id": ids[prompt.VISION_END],
    }
    preprocessor_config = {
        "size": {"shortest_edge": 65_536, "longest_edge": 16_777_216},
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    tensors = {
        "model.language_model.embed_tokens.weight": np.zeros((4, 2), np.float32),
        "model.language_model.norm.weight": np.ones(2, np.float32),
        "model.visual.patch_embed.proj.weight": np.zeros((2, 3), np.float32),
    }
    save_file(tensors, folder / WEIGHTS)
    for name, content in {
        "config.json": config,
        "preprocessor_config.json": preprocessor_config,
        "model.safetensors.index.json": {"weight_map": dict.fromkeys(tensors, WEIGHTS)},
    }.items():
        (folder / name).write_text(json.dumps(content))
    return folder


def make_tokenizer(appends_endoftext):
    """A tokenizer that encodes each byte as one id."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    vocabulary = {character: id_ for id_, character in enumerate(sorted(alphabet))}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in prompt.TOKENS])
    if appends_endoftext:
        end = prompt.ENDOFTEXT
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"$A {end}", special_tokens=[(end, tokenizer.token_to_id(end))]
        )
    return tokenizer
