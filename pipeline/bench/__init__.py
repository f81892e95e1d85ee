"""What this machine can do, next to its limits and to the reference.

`bench.py`      the steps to measure, the table · `timing.py` turns and their figures · `made.py` what is measured on
`decoding.py`   decoding and resizing · `cost.py` ... in a child process
`forward.py`    the model alone · `products.py` its matrix products alone
`feed.py`       how fast an accelerator can be fed · `nothing.py` a model that costs nothing
`end_to_end.py` a whole run, and a loop of transformers
"""
