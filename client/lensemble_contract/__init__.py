"""What clients and servers share: tensors and limits, errors, items, data URLs and certificates."""
