"""Trains the demo checkpoint: a small Qwen3-VL, from random weights, on emoji and their names.

    python -m demo.training

In the order of the data:

1. `demo.emoji` makes pictures from a font, names in six languages, and the evaluation dataset.
2. `training_data` loads them; `training_plan` says how they are trained on.
3. `batches` makes the items of a training step (`prompts` tokenizes their texts).
4. `objectives` computes the loss of a step, with `losses` and `differentiable_encoding`.
5. `trainer` is the training loop; `validation` measures recall meanwhile.
6. `checkpoint_writer` writes the serving checkpoint.
7. `run_training` and `evaluate_checkpoint` run all of it; `model_card` writes the README.
"""
