"""Bytes to pixels, in processes of their own: no image can take a worker down.

`decode.py`   an image file's bytes become pixels, once per spec; the only file here that knows how
`child.py`    a supervised child process that decodes, and the synchronous `Decoder` in front of one
`ring.py`     batch buffers in shared memory, which children write and a device reads
"""
