"""One look for every plot: each policy keeps its colour, line and marker wherever it is drawn.

Okabe and Ito's palette, safe for colour-blind readers; lines and markers differ, too, so that
a print in grey is readable. Called by whatever draws policies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Style:
    """How a policy is drawn, in matplotlib's terms."""

    colour: str
    """Hexadecimal."""
    line: str | tuple[float, tuple[float, ...]]
    """Line style."""
    marker: str
    """Marker of its points."""


_DEFAULT: Final = Style("#CC79A7", "-", "^")
STYLES: Final[Mapping[str, Style]] = {
    "fcfs": Style("#000000", "--", "s"),
    "ssjf": Style("#D55E00", (0, (3, 1, 1, 1)), "D"),
    "default": _DEFAULT,
    "tail-ssjf": _DEFAULT,
    "bounded-ssjf": Style("#0072B2", "-.", "o"),
    "hrrn": Style("#E69F00", (0, (5, 1, 1, 1, 1, 1)), "X"),
    "ssjf-ageing": Style("#56B4E9", (0, (6, 2)), "v"),
    "oracle": Style("#009E73", ":", "*"),
}
"""By policy, in the order of legends; `default` names tail-ssjf."""
OTHERS: Final = (
    Style("#8C510A", "-", "P"),
    Style("#666666", "-.", "h"),
    Style("#542788", "--", "d"),
    Style("#A6761D", ":", "<"),
)
"""For labels that no policy has alone, such as a policy at a second setting."""


def styles(labels: Iterable[str]) -> dict[str, Style]:
    """A style for each label: those of policies first, in legend order, then others by name.

    The first label that names a policy with settings has the policy's style where the policy
    alone is not there.
    """
    there = list(dict.fromkeys(labels))
    found: dict[str, Style] = {}
    for policy, style in STYLES.items():
        mine = [label for label in there if label.split(" ")[0] == policy]
        if mine:
            found[policy if policy in mine else min(mine)] = style
    rest = sorted(set(there) - found.keys())
    return found | {label: OTHERS[index % len(OTHERS)] for index, label in enumerate(rest)}
