"""Where spans are worked on.

`engine.py` what an engine is, and the one in this process · `on_ray.py` the flow on Ray · `cluster.py` which Ray
`steps.py` the steps of one span · `reader.py` rows of the dataset become decoded spans
`predictor.py` a model on one device · `wire.py` spans and receipts as blocks, on their way between Ray tasks
"""
