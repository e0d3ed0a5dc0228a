"""Writes a CLIP checkpoint of the real architecture with small random weights."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer

from tests.paths import ROOT

CORPUS = ROOT / "export" / "lensemble_export" / "tokenizer_texts.txt"
SIDE, PATCH, DIMENSION, MAX_TOKENS = 64, 16, 32, 77


def write_clip_checkpoint(folder: Path) -> Path:
    """Writes model, tokenizer and image processor with `save_pretrained`."""
    tokenizer = _tokenizer()
    tower = {
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    config = CLIPConfig(
        text_config={
            **tower,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": MAX_TOKENS,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={**tower, "image_size": SIDE, "patch_size": PATCH},
        projection_dim=DIMENSION,
    )
    torch.manual_seed(0)
    model = CLIPModel(config)
    with torch.no_grad():  # with the initial weights all vectors are nearly equal
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.15)
    model.save_pretrained(folder)
    # Real checkpoints have a side of 224.
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    )
    CLIPProcessor(processor, tokenizer).save_pretrained(folder)
    return folder


def _tokenizer() -> CLIPTokenizer:
    """Trains a byte-level BPE with `</w>`, like CLIP's; the start and end tokens come last."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    original = CLIPTokenizer().backend_tokenizer
    bpe.normalizer, bpe.pre_tokenizer = original.normalizer, original.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        end_of_word_suffix="</w>",
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train([str(CORPUS)], trainer)
    model = json.loads(bpe.to_str())["model"]
    vocab = dict(model["vocab"])
    for letter in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocab.setdefault(f"{letter}</w>", len(vocab))  # so that no text has unknown tokens
    for token in ("<|startoftext|>", "<|endoftext|>"):
        vocab[token] = len(vocab)
    merges = [tuple(pair) for pair in model["merges"]]
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_TOKENS)
