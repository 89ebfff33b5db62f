"""One picture of one case, expert beside prediction, for the simulator and for pages
that stay at a site.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround.core.errors import DataRefused

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
# By the place of a region among the task's, again from the first one where there are
# more.
_WIDTHS = (1.4, 3.0, 1.6)
# Told apart by lightness too (about 45, 95 and 70 of 100), and the first is dashed: one
# colour is not seen by everybody.
_COLOURS = ("#d11f68", "#fff3a0", "#56b4e9")
_LINES = ("dashed", "solid", "solid")


def draw_overlay(
    image: Floats,
    truth: Bools,
    prediction: Bools,
    title: str,
    path: Path,
    regions: Sequence[str],
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> Path:
    """Write a PNG of the axial slice with the largest tumour, the expert's contours
    left and the predicted ones right; return its path.

    image: [H, W, D] in RAS, any intensities. NaN is shown as the darkest grey.
    truth, prediction: [R, H, W, D] in the order of `regions`.
    spacing_mm: of the three axes; it sets the proportions of the picture.

    The slice is shown as radiologists look: the patient's right on the left, front on
    top. If truth is empty, it is the slice of the largest prediction; if both are
    empty, the middle slice. A region without a voxel in the slice has no contour.
    Shapes that do not fit are refused with DataRefused.
    """
    if image.ndim != 3 or truth.shape != (len(regions), *image.shape) or prediction.shape != truth.shape:
        raise DataRefused(
            "an overlay picture",
            found=f"image {image.shape}, truth {truth.shape}, prediction {prediction.shape}",
            expected="[H, W, D] and twice [R, H, W, D]",
            fix="pass one modality of the case and both region masks in its geometry",
        )
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    z = busiest_slice(truth.astype(bool), prediction.astype(bool))
    plane = _as_seen(image[:, :, z]).astype(np.float64)
    finite = plane[np.isfinite(plane)]
    darkest = finite.min() if finite.size else 0.0
    # Normalised images are 0 outside the head, which is shown black as in the original.
    picture = np.where(np.isfinite(plane) & (plane != 0), plane, darkest)
    low, high = np.percentile(picture, (1, 99.5))
    canvas: Any = Figure(
        figsize=(7.2, 4.0),
        dpi=100,
        facecolor="#101418",
        layout="constrained",
    )
    canvas.get_layout_engine().set(rect=(0.0, 0.07, 1.0, 0.93))
    FigureCanvasAgg(canvas)
    canvas.suptitle(title, color="#e4eaf0", fontsize=10, parse_math=False)
    for side, (name, masks) in enumerate(
        (("expert", truth), ("prediction", prediction)),
    ):
        axes: Any = canvas.add_subplot(1, 2, side + 1)
        axes.imshow(
            picture,
            cmap="gray",
            vmin=low,
            # A constant image must still have a range of greys.
            vmax=max(high, low + 1e-6),
            aspect=spacing_mm[1] / spacing_mm[0],
        )
        for i in reversed(range(len(regions))):
            place = i % len(_COLOURS)
            mask = _as_seen(masks[i, :, :, z]).astype(np.float64)
            if mask.any():
                look: dict[str, Any] = {
                    "colors": [_COLOURS[place]],
                    "linewidths": _WIDTHS[place],
                }
                axes.contour(
                    np.pad(mask, 1),
                    [0.5],
                    linestyles=_LINES[place],
                    extent=_padded(mask),
                    **look,
                )
        axes.set_title(name, color="#e4eaf0", fontsize=9)
        axes.text(
            0.02,
            0.5,
            "R",
            color="#9eabb7",
            fontsize=8,
            transform=axes.transAxes,
            va="center",
        )
        axes.set_axis_off()
    for i, region in enumerate(regions):
        canvas.text(
            0.40 + 0.09 * i,
            0.015,
            region,
            color=_COLOURS[i % len(_COLOURS)],
            fontsize=9,
            weight="bold",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(
        path,
        format="png",
        facecolor=canvas.get_facecolor(),
        metadata={"Software": None, "Title": title},
    )
    return path


def busiest_slice(truth: Bools, prediction: Bools) -> int:
    """Return the index along D with the most voxels of any region in truth, else in
    prediction, else the middle.
    """
    for masks in (truth, prediction):
        areas = [int(area) for area in masks.any(axis=0).sum(axis=(0, 1))]
        if any(areas):
            return areas.index(max(areas))
    return int(truth.shape[-1]) // 2


def _as_seen(plane: NDArray[Any]) -> NDArray[Any]:
    """Return an axial RAS plane [H, W] with rows from front to back and columns from
    the patient's right to left.
    """
    return plane[::-1, ::-1].T


def _padded(mask: NDArray[Any]) -> tuple[float, float, float, float]:
    """Return the corners of a mask padded by one, in pixels, so that a tumour at the
    edge keeps a closed contour.
    """
    rows, columns = mask.shape
    return (-1.0, float(columns), -1.0, float(rows))
