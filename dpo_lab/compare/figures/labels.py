"""Text labels of a figure, each placed beside its point where the fewest lines and other labels cross it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes

PLACES = (  # direction from the point: right is 1, up is 1
    (0, -1),
    (1, -1),
    (-1, 1),
    (-1, -1),
    (1, 1),
    (1, 0),
    (-1, 0),
    (0, 1),
)
SAMPLES = 60  # points along a line that are looked at


@dataclass
class Labels:
    """Labels of one panel, whose limits are set. `avoid` what they should not cover, then `annotate`."""

    axes: Axes
    obstacles: list[np.ndarray] = field(default_factory=list)
    """Points in pixels."""

    def avoid(self, x: Any, y: Any) -> None:
        """Keep labels off the line through the given points, in data coordinates."""
        points = np.column_stack([np.asarray(x, dtype=float), np.asarray(y, dtype=float)])
        if len(points):
            corners = self.axes.transData.transform(points)
            ends = np.linspace(0, len(corners) - 1, SAMPLES * max(len(corners) - 1, 1))
            self.obstacles.append(np.column_stack([np.interp(ends, range(len(corners)), column) for column in corners.T]))

    def annotate(
        self, text: str, point: tuple[float | int, float | int], gap: int, first: tuple[int, int], **style: Any
    ) -> None:
        """Write `text` beside the point, `gap` points of type away: in the direction `first`, or where fewer lines cross it."""
        label = self.axes.annotate(text, point, (0, 0), textcoords="offset points", **style)
        renderer: Any = self.axes.figure.canvas.get_renderer()  # type: ignore[attr-defined]
        best: tuple[float, Any] | None = None
        for right, up in (first, *PLACES):
            label.set(ha=("right", "center", "left")[right + 1], va=("top", "center", "bottom")[up + 1])
            label.xyann = (gap * right, gap * up)
            box = label.get_window_extent(renderer)
            outside = not (self.axes.bbox.x0 < box.x0 and box.x1 < self.axes.bbox.x1 and self.axes.bbox.y0 < box.y0)
            crossed = 10_000.0 * outside
            for line in self.obstacles:
                crossed += ((line > [box.x0, box.y0]) & (line < [box.x1, box.y1])).all(axis=1).sum()
            if best is None or crossed < best[0]:
                best = crossed, (right, up, box)
        assert best is not None, "a label has places"
        right, up, box = best[1]
        label.set(ha=("right", "center", "left")[right + 1], va=("top", "center", "bottom")[up + 1])
        label.xyann = (gap * right, gap * up)
        x, y = np.meshgrid(np.linspace(box.x0, box.x1, 8), np.linspace(box.y0, box.y1, 8))
        self.obstacles.append(np.column_stack([x.ravel(), y.ravel()]))
