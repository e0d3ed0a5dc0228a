"""Upper bounds of items per second by model and card, and sizes of weights, computed from shapes.

    python -m benchmarks.encoder.sizing

Nothing is measured. A bound is the card's peak divided by the floating-point operations of one
input (a multiplication and an addition are two). No server reaches the peak; `docs/performance.md`
has the shares that were measured. The operations are correct to about a per cent: norms, softmax
and embeddings are left out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from lensemble_export.model_shapes import SHAPES

# Dense bf16 operations per second, according to the manufacturer's data sheets.
PEAKS = {"H100 SXM": 989e12, "A100": 312e12, "L4": 121e12}

# Tokens around a picture or a text: system message, roles, markers.
PROMPT_TOKENS = 22
PICTURES = {"448x448": (448, 448), "1024x768": (1024, 768), "1024x1024": (1024, 1024)}
TEXTS = {"32 tokens": 32, "512 tokens": 512}


@dataclass(frozen=True, slots=True)
class FlopCount:
    """Floating-point operations of both towers of one model shape.

    Attributes:
        text: Configuration of the text tower.
        vision: Configuration of the vision tower.
    """

    text: dict[str, Any]
    vision: dict[str, Any]

    def of_tokens(self, tokens: int) -> float:
        """Returns the operations of the text tower for one item with that many tokens."""
        t = self.text
        hidden, head = t["hidden_size"], t["head_dim"]
        queries, keys = t["num_attention_heads"] * head, t["num_key_value_heads"] * head
        per_token = 2 * (2 * hidden * queries + 2 * hidden * keys)
        per_token += 2 * 3 * hidden * t["intermediate_size"]
        attention = 2 * tokens * tokens * queries  # causal: half of all pairs
        return float(t["num_hidden_layers"] * (tokens * per_token + attention))

    def of_patches(self, patches: int) -> float:
        """Returns the operations of the vision tower and its mergers for one picture."""
        v = self.vision
        hidden = v["hidden_size"]
        embedding = 2 * patches * 768 * hidden  # one Linear on uint8 rows
        per_patch = 2 * (4 * hidden * hidden + 2 * hidden * v["intermediate_size"])
        layers = v["depth"] * (patches * per_patch + 4 * patches * patches * hidden)
        mergers = 1 + len(v["deepstack_visual_indexes"])
        merged = 2 * (16 * hidden * hidden + 4 * hidden * v["out_hidden_size"])
        return float(embedding + layers + mergers * patches // 4 * merged)

    def of_picture(self, width: int, height: int) -> float:
        """Returns the operations of both towers for a picture whose sides are multiples of 32."""
        patches = width * height // 256
        return self.of_patches(patches) + self.of_tokens(patches // 4 + PROMPT_TOKENS)

    def weights(self) -> int:
        """Returns the number of weights that the server loads, without norms and biases.

        The files may hold more: the head that predicts tokens, where it is not the embedding.
        """
        t, v = self.text, self.vision
        hidden, head = t["hidden_size"], t["head_dim"]
        queries, keys = t["num_attention_heads"] * head, t["num_key_value_heads"] * head
        layer = hidden * (2 * queries + 2 * keys + 3 * t["intermediate_size"])
        text = t["vocab_size"] * hidden + t["num_hidden_layers"] * layer
        wide = v["hidden_size"]
        block = wide * (4 * wide + 2 * v["intermediate_size"])
        mergers = 1 + len(v["deepstack_visual_indexes"])
        merger = 4 * wide * (4 * wide + v["out_hidden_size"])
        positions = v.get("num_position_embeddings", 2304)
        vision = wide * (768 + positions) + v["depth"] * block + mergers * merger
        return int(text + vision)


def bounds(shape: str) -> dict[str, dict[str, float]]:
    """Returns input -> card -> items per second at the card's peak."""
    flop = FlopCount(SHAPES[shape]["text"], SHAPES[shape]["vision"])
    inputs = {name: flop.of_picture(*size) for name, size in PICTURES.items()}
    inputs |= {name: flop.of_tokens(tokens) for name, tokens in TEXTS.items()}
    return {
        name: {"TFLOP": round(operations / 1e12, 3)}
        | {card: round(peak / operations, 1) for card, peak in PEAKS.items()}
        for name, operations in inputs.items()
    }


def main() -> None:
    """Prints a table, then one line of JSON."""
    results = {shape: bounds(shape) for shape in ("2b", "4b", "8b")}
    print(f"{'at the peak, items/s':24}{'TFLOP':>10}" + "".join(f"{card:>12}" for card in PEAKS))
    for shape, inputs in results.items():
        for name, figures in inputs.items():
            cells = "".join(f"{figures[card]:12,.1f}" for card in PEAKS)
            print(f"{shape:4}{name:20}{figures['TFLOP']:10.3f}{cells}")
    for shape in results:
        weights = FlopCount(SHAPES[shape]["text"], SHAPES[shape]["vision"]).weights()
        print(f"{shape}: {2 * weights / 1e9:.1f} GB of weights in bf16")
    print(json.dumps(results, separators=(",", ":")))


if __name__ == "__main__":
    main()
