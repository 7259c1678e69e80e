from __future__ import annotations

from pathlib import Path

from ssjf_bench import plots


def test_the_distribution_rises_from_nothing_to_everything() -> None:
    assert plots.cdf([3.0, 1.0]) == ([0.0, 1.0, 3.0], [0.0, 0.5, 1.0])


def test_a_panel_for_each_arrival_process_is_written_as_png(tmp_path: Path) -> None:
    panels = {
        "Burst": {"fcfs": [1.0, 2.0], "ssjf": [0.5, 2.0], "oracle": [0.4, 1.9]},
        "Poisson": {"fcfs": [1.0], "another": [2.0]},
    }
    plots.jct_cdfs(panels, tmp_path / "jct.png")
    assert (tmp_path / "jct.png").read_bytes().startswith(b"\x89PNG")
