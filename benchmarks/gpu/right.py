"""Is it right? Packed encoding on the device against the unpacked reference in fp32.

Cosine per item in bf16 and fp32; how far an item's vector moves when others stand beside it, and
how far it moves when the boundaries are lost (it must be seen); how often a forward pass makes the
CPU wait for the device.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Qwen3VLModel

from benchmarks.gpu.step import Step, arguments, mixed_features
from lensemble.encoder import Encoder
from lensemble.features import Features
from lensemble.packing import Packed, pack
from lensemble_client.errors import LensembleError


@torch.inference_mode()
def reference(step: Step, items: list[Features]) -> NDArray[np.float32]:
    """Vectors (B, D) of Transformers' own model in fp32, one item at a time."""
    model = Qwen3VLModel.from_pretrained(
        step.checkpoint(), dtype=torch.float32, attn_implementation="sdpa"
    )
    model = model.to(step.device).eval()
    vectors = []
    for item in items:
        ids = torch.from_numpy(item.input_ids.astype(np.int64))[None].to(step.device)
        given = {}
        if len(item.patches):
            frame = torch.from_numpy(item.patches).float().view(-1, 3, 1, 256) / 127.5 - 1
            pixels = frame.expand(-1, 3, 2, 256).reshape(-1, 1536)
            given = {
                "pixel_values": pixels.to(step.device),
                "image_grid_thw": torch.from_numpy(item.image_grid_thw.astype(np.int64)).to(
                    step.device
                ),
                "mm_token_type_ids": (ids == model.config.image_token_id).int(),
            }
        hidden = model(input_ids=ids, use_cache=False, **given).last_hidden_state[0, -1]
        vectors.append(torch.nn.functional.normalize(hidden, dim=-1).cpu().numpy())
    return np.stack(vectors)


def encoded(encoder: Encoder, items: list[Features]) -> NDArray[np.float32]:
    """Vectors (B, D); an item's error ends the step."""
    vectors = []
    for result in encoder.encode(items):
        if isinstance(result, LensembleError):
            raise result
        vectors.append(result)
    return np.stack(vectors)


def moved(encoder: Encoder, items: list[Features], damage: bool) -> float:
    """Largest change of a component between an item alone and among the others."""
    alone = [encoder.forward(pack([item], encoder.geometry)) for item in items]
    packed = pack(items, encoder.geometry)
    together = encoder.forward(_one_picture(packed) if damage else packed)
    return float((torch.cat(alone) - together).abs().max())


def _one_picture(packed: Packed) -> Packed:
    """All pictures in one segment: a leak in the vision tower."""
    patches = len(packed.patches)
    return replace(
        packed, vision_cu_seqlens=packed.vision_cu_seqlens[[0, -1]], vision_max_seqlen=patches
    )


def waits(encoder: Encoder, items: list[Features]) -> list[str]:
    """Where a forward pass waits for the device, as PyTorch reports it; empty on CPUs."""
    packed = pack(items, encoder.geometry)
    encoder.forward(packed)
    if encoder.device.type == "cpu":
        return []
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            encoder.forward(packed)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return [f"{w.filename}:{w.lineno}" for w in caught if "synchronizing" in str(w.message)]


def main() -> None:
    """Runs the step."""
    step = arguments(__doc__)
    encoder = step.encoder("bf16")
    items = mixed_features(12 if step.dry else 24, encoder, 256 if step.dry else 1024)
    expected = reference(step, items)
    in_bf16 = encoded(encoder, items)
    results: dict[str, Any] = {
        "items": len(items),
        "bf16_min_cosine": float((in_bf16 * expected).sum(axis=1).min()),
        "bf16_moved": moved(encoder, items[:12], damage=False),
        "bf16_moved_by_a_leak": moved(encoder, items[:12], damage=True),
        "waits": waits(encoder, items),
    }
    del encoder
    exact = step.encoder("fp32")
    in_fp32 = encoded(exact, items)
    results |= {
        "fp32_min_cosine": float((in_fp32 * expected).sum(axis=1).min()),
        "fp32_moved": moved(exact, items[:12], damage=False),
        "fp32_moved_by_a_leak": moved(exact, items[:12], damage=True),
    }
    step.save("right", results)
    if results["bf16_min_cosine"] < 0.999 or results["fp32_min_cosine"] < 0.99999:
        raise SystemExit("the vectors are not those of the reference")


if __name__ == "__main__":
    main()
