"""Tools that prepare what is served: checkpoints, ONNX graphs, indexes.

python -m lensemble_export random OUT --shape tiny      make a checkpoint with random weights
python -m lensemble_export checkpoint SOURCE OUT        convert a Hugging Face checkpoint
python -m lensemble_export verify CHECKPOINT            check all files of a serving checkpoint
python -m lensemble_export onnx CHECKPOINT              export a serving checkpoint's ONNX graphs
python -m lensemble_export verify-onnx CHECKPOINT       compare the graphs with the reference
python -m lensemble_export index SOURCE OUT             embed a corpus or pictures, write an index
"""
