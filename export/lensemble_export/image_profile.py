"""Chooses the pixel limits of a profile, and checks the checkpoint's own image processor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lensemble.profile import ImageProfile
from lensemble_contract.errors import InvalidInputError

# Limits of the official embedder: MIN_PIXELS and MAX_PIXELS in `qwen3_vl_embedding.py` of
# Qwen3-VL-Embedding.
OFFICIAL_MIN_PIXELS = 4 * 32 * 32
OFFICIAL_MAX_PIXELS = 1800 * 32 * 32


def make_image_profile(
    config: dict[str, Any],
    profile: str,
    min_pixels: int | None,
    max_pixels: int | None,
    report: Callable[[str], None],
) -> ImageProfile:
    """Chooses the pixel limits, and checks that the other settings are those of Qwen3-VL.

    Args:
        config: content of the checkpoint's `preprocessor_config.json`.
        profile: name of the profile; `qwen3-vl-embedding` takes the official embedder's pixel
            limits, any other profile those of the checkpoint.
        min_pixels: smallest area of a resized picture; None takes the profile's default.
        max_pixels: largest area of a resized picture; None takes the profile's default.
        report: called with one line that has the chosen limits and the checkpoint's.

    Raises:
        InvalidInputError: The patch size is not Qwen3-VL's, mean or deviation is missing, or the
            smallest area exceeds the largest.
    """
    for key, expected in (("patch_size", 16), ("merge_size", 2), ("temporal_patch_size", 2)):
        if config.get(key) != expected:
            raise InvalidInputError(
                f"preprocessor_config.json says {key} {config.get(key)!r}; expected {expected}",
                field="source",
            )
    for key in ("image_mean", "image_std"):
        if not isinstance(config.get(key), list) or len(config[key]) != 3:
            raise InvalidInputError(
                f"preprocessor_config.json says {key} {config.get(key)!r}; expected three numbers",
                field="source",
            )
    given_size = config.get("size")
    size: dict[str, Any] = given_size if isinstance(given_size, dict) else {}
    # Despite the names of their keys, these sizes are areas in pixels.
    own_min = config.get("min_pixels") or size.get("shortest_edge") or OFFICIAL_MIN_PIXELS
    own_max = config.get("max_pixels") or size.get("longest_edge") or OFFICIAL_MAX_PIXELS
    for area in (own_min, own_max):
        if not isinstance(area, int):
            raise InvalidInputError(
                f"preprocessor_config.json says an area of {area!r} pixels; expected a whole "
                "number",
                field="source",
            )
    if profile == "qwen3-vl-embedding":
        chosen_min, chosen_max = OFFICIAL_MIN_PIXELS, OFFICIAL_MAX_PIXELS
        reason = "the official embedder's"
    else:
        chosen_min, chosen_max = own_min, min(own_max, OFFICIAL_MAX_PIXELS)
        reason = "the checkpoint's, with the official embedder's upper limit"
    chosen_min = min_pixels if min_pixels is not None else chosen_min
    chosen_max = max_pixels if max_pixels is not None else chosen_max
    if (min_pixels, max_pixels) != (None, None):
        reason = "as requested"
    if not 0 < chosen_min <= chosen_max:
        raise InvalidInputError(
            f"{chosen_min} to {chosen_max} pixels; expected a smallest area above 0, and a largest "
            "area that is not smaller",
            field="min_pixels",
        )
    report(
        f"pictures: {chosen_min} to {chosen_max} pixels ({reason}); "
        f"the checkpoint's image processor says {own_min} to {own_max}"
    )
    return ImageProfile(
        min_pixels=chosen_min,
        max_pixels=chosen_max,
        patch_size=config["patch_size"],
        merge_size=config["merge_size"],
        mean=tuple(config["image_mean"]),
        std=tuple(config["image_std"]),
    )
