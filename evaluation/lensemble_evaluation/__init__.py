"""Retrieval quality of a served model: `lensemble eval` and `lensemble compare`.

`dataset` reads a folder in BEIR's layout, with pictures. `ranking` sends queries and corpus to a
server and finds the rank of every relevant item. `metrics` turns ranks into figures. `report`,
`compare_report` and `plots` show them.
"""
