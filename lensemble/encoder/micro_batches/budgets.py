"""Budgets of micro-batches that fit into a GPU's free memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch

from lensemble.preprocess.features import Features
from lensemble_contract.errors import OverloadedError

logger = logging.getLogger(__name__)


def largest_budget(
    budget: int,
    item: Features,
    item_cost: int,
    name: str,
    try_pass: Callable[[Sequence[Features], str], None],
) -> int:
    """Halves a budget until a micro-batch that fills it fits into memory, and returns it.

    Args:
        budget: the budget to try first, in tokens or patches.
        item: the item that is repeated.
        item_cost: what one item uses of the budget.
        name: name of the budget in the log.
        try_pass: runs a pass over items, with a description of them for its error; raises
            OverloadedError if they do not fit into memory.

    Raises:
        OverloadedError: A single item does not fit.
    """
    while True:
        count = max(1, budget // item_cost)
        try:
            try_pass([item] * count, f"{count * item_cost} {name}")
            return budget
        except OverloadedError as error:
            if count == 1:
                raise
            logger.warning("%s; micro-batches are halved", error)
        torch.cuda.empty_cache()  # not above, where the error holds the tensors
        budget //= 2
