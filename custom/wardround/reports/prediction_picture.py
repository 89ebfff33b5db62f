"""One picture of a predicted mask: three planes through the tumour, for the person who
asked. It stays beside the mask.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround.core import files

# By the place of a region among the task's, again from the first one where there are
# more.
_COLOURS = ("#e8601c", "#f6e05a", "#56b4e9")
_WIDTHS = (1.0, 2.4, 1.4)
_PLANES = (("axial", 2), ("coronal", 1), ("sagittal", 0))
_GROUND, _INK, _WARNING = "#101418", "#e4eaf0", "#ff8f6b"


def draw_prediction(
    image: NDArray[np.float32],
    regions: NDArray[np.bool_],
    known: NDArray[np.bool_],
    names: Sequence[str],
    title: str,
    path: Path,
    spacing_mm: tuple[float, float, float],
    notice: str = "",
) -> Path:
    """Write a PNG, for this user only, of the planes with the largest predicted tumour;
    return its path.

    image: [H, W, D] in RAS.
    regions: [R, H, W, D] in the order of `names`.
    known: [R], which of the regions the model knows.
    notice: What whoever sees the picture must know about the model. It stands in the
      picture, above the title, and in the file's own text (`Description`).

    Planes are shown as radiologists look: the patient's right on the left; front, or
    top, on top. Without a voxel of any region the middle planes are shown, and the
    picture says so.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tumour = np.asarray(regions[known].any(axis=0), bool)
    image = np.where(
        image == 0,
        image.min(),
        image,
    )  # normalised images are 0 outside the head: shown black
    low, high = np.percentile(image, (1, 99.5))
    figure: Any = Figure(
        figsize=(10.2, 4.2),
        dpi=100,
        facecolor=_GROUND,
        layout="constrained",
    )
    # The names of the regions stand below the planes, and a notice above the title.
    figure.get_layout_engine().set(rect=(0.0, 0.07, 1.0, 0.81 if notice else 0.93))
    FigureCanvasAgg(figure)
    figure.suptitle(
        title if tumour.any() else f"{title} (no tumour found)",
        color=_INK,
        fontsize=10,
        parse_math=False,
        # The layout places a title at the top, where a notice must stand.
        **({"y": 0.93} if notice else {}),
    )
    if notice:
        figure.text(0.5, 0.945, notice, color=_WARNING, fontsize=11, weight="bold", ha="center")
    for place, (name, axis) in enumerate(_PLANES):
        index = _busiest(tumour, axis)
        across, up = (spacing_mm[i] for i in range(3) if i != axis)
        axes: Any = figure.add_subplot(1, 3, place + 1)
        axes.imshow(
            _seen(image, axis, index),
            cmap="gray",
            vmin=low,
            # A constant image must still have a range of greys.
            vmax=max(high, low + 1e-6),
            aspect=up / across,
        )
        for i in reversed(range(len(names))):
            place_ = i % len(_COLOURS)
            mask = _seen(regions[i], axis, index).astype(np.float64)
            if known[i] and mask.any():
                rows, columns = mask.shape
                edges = (-1.0, float(columns), -1.0, float(rows))
                drawn = {
                    "colors": [_COLOURS[place_]],
                    "linewidths": _WIDTHS[place_],
                    "extent": edges,
                }
                axes.contour(np.pad(mask, 1), [0.5], **drawn)
        axes.set_title(f"{name} {index}", color=_INK, fontsize=9)
        axes.set_axis_off()
    for i, index in enumerate(np.flatnonzero(known).tolist()):
        colour = _COLOURS[index % len(_COLOURS)]
        figure.text(
            0.40 + 0.06 * i,
            0.015,
            names[index],
            color=colour,
            fontsize=9,
            weight="bold",
        )
    content = io.BytesIO()
    figure.savefig(
        content,
        format="png",
        facecolor=_GROUND,
        metadata={"Software": None} | ({"Description": notice} if notice else {}),
    )
    return files.write(path, content.getvalue(), private=True)


def _busiest(tumour: NDArray[np.bool_], axis: int) -> int:
    """Return the index along an axis with the most voxels; the middle where there is
    none.
    """
    counts = tumour.sum(axis=tuple(other for other in range(3) if other != axis))
    return int(counts.argmax()) if counts.any() else tumour.shape[axis] // 2


def _seen(volume: NDArray[Any], axis: int, index: int) -> NDArray[Any]:
    """Return a plane with rows from front (or top) down, and columns from the patient's
    right (or front) on.
    """
    return np.asarray(np.take(volume, index, axis)[::-1, ::-1].T)
