"""Kernels for CUDA, in Triton: what PyTorch would run as several launches, joined into one.

At small batches a step's time is that of its launches and of reading the weights, so a
layer is five kernels here. Imported by `model.ops` and `attention` on CUDA only, since
Triton comes with PyTorch's CUDA builds only.
"""
