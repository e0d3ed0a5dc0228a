"""From checkpoints and pictures to what is served.

python -m lensemble_export random OUT --shape tiny      a checkpoint with random weights
python -m lensemble_export checkpoint SOURCE OUT        Hugging Face -> serving checkpoint
python -m lensemble_export index PICTURES OUT           pictures -> vectors -> index
"""
