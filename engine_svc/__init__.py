"""The engine: generates tokens for the sequences that a gateway schedules.

Continuous batching over a paged KV cache, PyTorch on CUDA or CPU. `__main__` composes
it; `engine` is the loop.
"""
