"""Where spans are worked on.

`engine.py`     what an engine is, and the one in this process · `on_ray.py` the flow on Ray: `steps.py`
`worker.py`     all steps of many spans at once, on one device: `under_way.py`
`span_decoder.py`, `span_predictor.py` the same steps one by one
`reader.py`     rows of the plan become spans to be read, `open_span.py`: `shard_walk.py`, `shard_stream.py`, `redo.py`
`spans.py`      a span between its steps
`predictor.py`  a model on one device: `device.py`, what that is and can do, `transfer.py`, batches there and back
`loading.py`    the model on this node, and what `auto` means for it
`layout.py`     how nodes are used · `cores.py` CPUs of this process
`board.py`      where planned rows wait · `wire.py` rows and spans as Arrow blocks
`cluster.py`    joining a Ray cluster · `watch.py` whether it is there still · `gate.py` bounds on what is under way
`ray_metrics.py` a run's figures among Ray's own
"""
