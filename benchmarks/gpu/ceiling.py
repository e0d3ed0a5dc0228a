"""The card's own limits: a large bf16 matrix product, and a copy within device memory."""

from __future__ import annotations

import torch

from benchmarks.gpu.step import parse_arguments


def main() -> None:
    """Runs the step."""
    step = parse_arguments(__doc__)
    side = 512 if step.dry else 8192
    # Random numbers, because a product of zeros runs faster than one of any real data.
    left, right = (
        torch.randn(side, side, device=step.device, dtype=torch.bfloat16) for _ in range(2)
    )
    seconds = step.seconds(lambda: [left @ right for _ in range(10)]) / 10
    source = torch.randn((1 << 20) if step.dry else (1 << 30), device=step.device)
    target = torch.empty_like(source)
    copying = step.seconds(lambda: target.copy_(source))
    step.save(
        "ceiling",
        {
            "bf16_tflop_per_s": round(2 * side**3 / seconds / 1e12, 2),
            "copy_gb_per_s": round(2 * source.nbytes / copying / 1e9, 1),
            "side": side,
        },
    )


if __name__ == "__main__":
    main()
