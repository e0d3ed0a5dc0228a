"""Splits items into micro-batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lensemble.preprocess.features import Features


def split_by_budgets(
    items: Sequence[Features], max_tokens: int, max_patches: int
) -> list[list[int]]:
    """Splits items, in order, into micro-batches that stay within both budgets.

    Args:
        items: features of the items.
        max_tokens: largest number of tokens of one micro-batch.
        max_patches: largest number of patches of one micro-batch.

    Returns:
        Indices into `items`, one list per micro-batch. An item that exceeds a budget is alone.
    """
    batches: list[list[int]] = []
    tokens = patches = 0
    for n, item in enumerate(items):
        tokens += len(item.input_ids)
        patches += len(item.patches)
        if not batches or tokens > max_tokens or patches > max_patches:
            batches.append([])
            tokens, patches = len(item.input_ids), len(item.patches)
        batches[-1].append(n)
    return batches


def split_by_padded_cost(costs: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Sorts items by cost and splits them into micro-batches, for models that pad.

    Padding makes every item of a micro-batch cost as much as the most expensive one.

    Args:
        costs: cost of each item, such as its number of tokens.
        budget: largest cost of a micro-batch with its padding.

    Yields:
        Indices into `costs`, cheap items first. An item that exceeds the budget is alone.
    """
    batch: list[int] = []
    for n in sorted(range(len(costs)), key=costs.__getitem__):
        if batch and (len(batch) + 1) * costs[n] > budget:
            yield batch
            batch = []
        batch.append(n)
    if batch:
        yield batch
