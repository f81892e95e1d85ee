"""What the user names, and the images in it.

`naming.py`   prefixes, globs (`patterns.py`) and lists become a stream of loose images and shards: `kinds.py`
`ahead.py`    several prefixes listed at once
`lists.py`    the images of a list · `columns.py` which column of a table holds them
`passed.py`   files of a folder that are neither
`item.py`     an image between source and decoder · `fetch.py` objects read ahead of their use
`format.py`   what every kind of shard can do, and the list of kinds: `tar.py` `tar_gz.py` `zip.py` `parquet.py`
`samples.py`  members of an archive that share a key are a sample · `values.py` values of Arrow columns
"""
