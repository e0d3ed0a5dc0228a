"""Retrieval quality of a served model: `lensemble eval`.

`dataset` (a folder in BEIR's layout, with pictures) -> `rank` (queries and corpus through the
server, rank of every relevant item) -> `metrics` -> `report` and `plots`.
"""
