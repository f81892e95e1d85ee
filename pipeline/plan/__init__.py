"""What is to be done, as it becomes known: written to `plan/` once, never changed.

`names.py`    names of spans, from URIs alone · `span_size.py` how many images a span has
`estimate.py` about how many images shards hold
`rows.py`     rows of the dataset: a span, or a shard nobody has read to its end
`files.py`    what the plan is made of: `part_file.py` loose images, `entry_file.py` shards, `forgotten.py`
`digests.py`  a set of millions of texts
`planner.py`  sources become rows; its halves: `loose.py` loose images, `shards.py` shards
`expected.py` spans that the plan wants, and those behind its shards' ends
`audit.py`    finished files compared with the plan · `verify.py` the same by reading every row
`prune.py`    deletes surplus spans
`drop.py`     removes the rows of forgotten images
`inventory.py` an output as it stands, without its sources
"""
