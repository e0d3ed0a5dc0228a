"""The training loop. It can be resumed, and is reproducible on the same CPU with the same seed."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from tqdm import tqdm

from demo.training.differentiable_encoding import trains_in_bf16
from lensemble.encoder.pytorch.torch_engine import TorchEngine

STATE_FILE = "state.pt"
# Weights that are looked up or see raw pixels: AdamW trains them, because Muon is meant for
# matrices between hidden states.
TABLES = (
    "language_model.embed_tokens.weight",
    "visual.pos_embed.weight",
    "visual.patch_embed.weight",
)


@dataclass(frozen=True, slots=True)
class TrainingRecipe:
    """Hyperparameters of a training phase.

    Attributes:
        steps: Number of steps.
        learning_rate: Highest learning rate; it rises during the warm-up, then falls to 0 along a
            cosine.
        warm_up: Share of the steps in which the learning rate rises.
        weight_decay: Weight decay of matrices.
        clip: Largest norm of the gradient.
        dimensions: Matryoshka lengths.
        save_every: Number of steps between two saved states.
    """

    steps: int = 3500
    learning_rate: float = 2e-3
    warm_up: float = 0.05
    weight_decay: float = 0.05
    clip: float = 1.0
    dimensions: tuple[int, ...] = (32, 64, 128, 192)
    save_every: int = 250

    def rate(self, step: int) -> float:
        """Returns the learning rate of a step, counted from 0."""
        rise = max(1, round(self.warm_up * self.steps))
        if step < rise:
            return self.learning_rate * (step + 1) / rise
        done = (step - rise) / max(1, self.steps - rise)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


class _Float32Only(TorchFunctionMode):
    """Computes in float32 where code converts to bfloat16, as Muon does.

    A CPU without bfloat16 instructions multiplies such matrices a hundred times more slowly.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any | None = None
    ) -> Any:
        if func is torch.Tensor.bfloat16:
            func = torch.Tensor.float
        return func(*args, **(kwargs or {}))


class Trainer:
    """Trains an encoder in place: matrices with Muon, all other weights with AdamW.

    Args:
        encoder: Encoder with float32 weights, on the device to train on.
        objective: Module from a step to its loss; its own parameters are trained too.
        recipe: Hyperparameters.
        folder: Folder of the saved state; None saves none.
    """

    def __init__(
        self,
        encoder: TorchEngine,
        objective: nn.Module,
        recipe: TrainingRecipe,
        folder: Path | None = None,
    ) -> None:
        self._encoder, self._objective, self._recipe = encoder, objective, recipe
        self._folder = folder
        self._bf16 = trains_in_bf16(encoder)
        self.step = 0
        self.seconds = 0.0  # spent on all steps, including those of earlier runs
        encoder.model.requires_grad_(True)
        named = dict(encoder.model.named_parameters())
        matrices = [p for name, p in named.items() if p.ndim == 2 and name not in TABLES]
        tables = [p for name, p in named.items() if p.ndim == 2 and name in TABLES]
        rest = [*(p for p in named.values() if p.ndim != 2), *objective.parameters()]
        self._optimizers: tuple[torch.optim.Optimizer, ...] = (
            torch.optim.Muon(
                matrices,
                lr=recipe.learning_rate,
                weight_decay=recipe.weight_decay,
                adjust_lr_fn="match_rms_adamw",  # lets both optimizers use one learning rate
            ),
            torch.optim.AdamW(
                [
                    {"params": tables, "weight_decay": recipe.weight_decay},
                    {"params": rest, "weight_decay": 0.0},
                ],
                betas=(0.9, 0.98),
                lr=recipe.learning_rate,
            ),
        )

    def run(self, report: Callable[[], str] | None = None, *, progress: bool = True) -> list[float]:
        """Trains to the recipe's last step, starting from a saved state if there is one.

        Args:
            report: Function that is called when a state is saved; its result is printed.
            progress: Whether to show a progress bar.

        Returns:
            The loss of each step that was run.
        """
        losses = []
        self._restore()
        with tqdm(
            desc="training", total=self._recipe.steps, initial=self.step, disable=not progress
        ) as bar:
            while self.step < self._recipe.steps:
                losses.append(self.advance())
                bar.update()
                bar.set_postfix(loss=f"{sum(losses[-50:]) / len(losses[-50:]):.3f}")
                if self.step % self._recipe.save_every == 0 or self.step == self._recipe.steps:
                    self._save()
                    if report is not None:
                        tqdm.write(f"step {self.step}: {report()}")
        return losses

    def advance(self) -> float:
        """Runs one step.

        Returns:
            The loss of the step.
        """
        began = time.monotonic()
        loss: torch.Tensor = self._objective(self.step)
        for optimizer in self._optimizers:
            optimizer.zero_grad()
            for group in optimizer.param_groups:
                group["lr"] = self._recipe.rate(self.step)
        loss.backward()  # type: ignore[no-untyped-call]
        parameters = [*self._encoder.model.parameters(), *self._objective.parameters()]
        nn.utils.clip_grad_norm_(parameters, self._recipe.clip)
        with contextlib.nullcontext() if self._bf16 else _Float32Only():
            for optimizer in self._optimizers:
                optimizer.step()
        self.step += 1
        self.seconds += time.monotonic() - began
        return float(loss.detach())

    def _save(self) -> None:
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "model": self._encoder.model.state_dict(),
            "objective": self._objective.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
        }
        part = self._folder / f"{STATE_FILE}.part"
        torch.save(state, part)
        part.replace(self._folder / STATE_FILE)

    def _restore(self) -> None:
        if self._folder is None or not (self._folder / STATE_FILE).is_file():
            return
        state: dict[str, Any] = torch.load(
            self._folder / STATE_FILE, map_location=self._encoder.device, weights_only=True
        )
        self._encoder.model.load_state_dict(state["model"])
        self._objective.load_state_dict(state["objective"])
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.seconds = state["step"], state["seconds"]
