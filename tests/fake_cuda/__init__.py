"""A GPU for machines without one: torch's own CUDA build, on a CUDA runtime that is made of host memory and queues.

    make fake-gpu      # fetches torch's CUDA wheel (0.5 GB), compiles the runtime, runs the tests of this folder

`runtime.cpp`   what libcudart is asked: memory, streams, events, and how a device fails
`kernels.py`    torch's CUDA kernels, computed by the CPU's on the device's memory when their turn comes
`build.py`      both beside a copy of torch · `test_fake_cuda.py` what the engine makes of it

A stream is a queue that is worked off as late as may be: when somebody waits for it, or after a while, one operation of
any stream. So what is read before it was waited for is not there yet, and what is overwritten before it was waited for
is not read yet. New memory of the device holds NaN. What it cannot show: how fast a GPU is, and how its kernels round.

Environment: FAKE_CUDA_SEED (the order of what nobody waits for), FAKE_CUDA_DELAY_US (how late that comes),
FAKE_CUDA_MIB (the device's memory), FAKE_CUDA_DEVICES, FAKE_CUDA_CAPABILITY (90 is 9.0), FAKE_CUDA_NO_LOCK (no page can
be locked), FAKE_CUDA_FAIL_AT (the call from which on every call fails), FAKE_CUDA_FAIL_ONCE (a file: fail only if it is
not there, and leave it).
"""
