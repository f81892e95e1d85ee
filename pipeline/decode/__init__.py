"""Bytes to pixels, in child processes, so that no image can crash a worker.

`decode.py`   an image file's bytes become pixels, once per spec; the only file here that knows how
`resize.py`   resizing by torch, where that is faster than Pillow
`ring.py`     batch buffers in shared memory, which children write and a device reads
`child.py`    what runs in a child · `process.py` the parent's end of one: start, send, receive, end
`pool.py`     many children; which image made one die
"""
