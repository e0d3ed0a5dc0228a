"""Measures the retrieval quality of a served model: `lensemble eval` and `lensemble compare`.

`dataset` reads a folder in BEIR's layout, extended by pictures. `ranking` sends queries and corpus
to a server and finds the rank of every relevant item. `metrics` computes metrics from the ranks.
`report`, `compare_report` and `plots` show them, and `result_files` keeps them.
"""
