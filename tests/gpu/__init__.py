"""What can only be seen on an accelerator: `make gpu`, or python -m tests.gpu, where torch and a GPU are.

`__main__.py` runs it all and writes a table · `models.py` seeded models of every head · `checks.py` what must hold
`speed.py` how fast it is, next to the limit and the reference
It needs torch, pyarrow, pillow, numpy and safetensors; transformers is compared with where it is installed.
"""
