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
