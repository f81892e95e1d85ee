"""What this machine can do, next to its limits and to the reference.

`bench.py`   the steps
`cost.py`    what decoding costs
`feed.py`    how fast an accelerator can be fed · `nothing.py` a model that costs nothing
"""
