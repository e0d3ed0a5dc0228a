"""What clients and server agree on: tensors and limits, errors, items, certificates."""
