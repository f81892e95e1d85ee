"""What a job leaves behind: one folder or prefix, laid out the same in every store.

`place.py`      every name in it · `bound.py` `_run.json`: what the output is bound to
`span_file.py`  one Parquet file per span and what its metadata say · `columns.py` the columns
`receipts.py`   what a finished span reports · `ledger.py` what is finished, from one listing
`lease.py`      who works on it now
"""
