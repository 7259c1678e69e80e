"""The device's side of `launch`: called by every kernel before it reads what others wrote."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def wait(OVERLAP: tl.constexpr):  # type: ignore[no-untyped-def]
    """Lets the next kernel's blocks come, and waits for the one before to end."""
    if OVERLAP:
        gdc_launch_dependents()
        gdc_wait()


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def prefetch_rows(  # type: ignore[no-untyped-def]
    rows_ptr, INNER: tl.constexpr, AHEAD: tl.constexpr, OVERLAP: tl.constexpr
):
    """Asks for the first AHEAD numbers of 16 bits of rows at pointers [n, 1] to come to L2.

    Called before `wait`, for weights: they come while the predecessor still runs.
    """
    if OVERLAP and AHEAD > 0:
        line = tl.minimum(tl.arange(0, AHEAD // 64) * 64, INNER - 64)[None, :]
        tl.inline_asm_elementwise(
            "prefetch.global.L2 [$1]; mov.b32 $0, 0;",
            "=r,l",
            [(rows_ptr + line).to(tl.int64)],
            dtype=tl.int32,
            is_pure=False,
            pack=1,
        )
