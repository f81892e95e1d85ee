"""Bytes to pixels, in processes of their own: no image can take a worker down.

`decode.py`   an image file's bytes become pixels, once per spec; the only file here that knows how
`resize.py`   what of it torch does faster than Pillow
`ring.py`     batch buffers in shared memory, which children write and a device reads
`child.py`    what runs in a child · `process.py` the parent's end of one: start, send, receive, end
`pool.py`     many children, their deaths, and which image is to blame
`cost.py`     what decoding costs, exact and not
"""
