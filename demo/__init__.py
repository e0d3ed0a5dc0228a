"""The emoji demo: its program, checkpoint, data set, and the training that made them."""
