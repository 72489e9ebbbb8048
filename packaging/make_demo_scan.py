"""Makes the small NeXus file that the package ships: for maintainers, when it is to look different.

Owns the content of ``src/openmsistream/demo/files/scan_0042.nxs``: a made-up X-ray scan laid out as the NeXus
standard asks. Nothing at run time needs it, and it is the only module here that knows h5py.
Run it as ``python packaging/make_demo_scan.py`` with h5py installed.

Source: NeXus manual, "NXdata" (``signal``, ``axes``) and "NXroot" (``default``).
"""

from __future__ import annotations

import math
import random
from pathlib import Path

import h5py

FILE = Path(__file__).parents[1] / "src/openmsistream/demo/files/scan_0042.nxs"
_STEPS, _PIXELS = 41, 64


def make_scan(path: Path) -> None:
    """Write the file: one entry with a sample, a detector and the data to plot; below 50 KB."""
    chance = random.Random(42)  # noqa: S311 - noise in a picture, no secret
    energy = [8.30 + 0.005 * step for step in range(_STEPS)]
    frames = [
        [
            int(chance.gauss(20, 4) + 900 * _edge(value, 8.38) * math.exp(-(((pixel - 32) / 6) ** 2)))
            for pixel in range(_PIXELS)
        ]
        for value in energy
    ]
    with h5py.File(path, "w") as file:
        file.attrs.update({"NX_class": "NXroot", "default": "entry", "creator": "openmsistream demo"})
        entry = _group(file, "entry", "NXentry", default="data")
        entry["title"] = "made-up absorption scan of the Ni K edge"
        entry["start_time"] = "2026-01-15T10:30:00+01:00"
        sample = _group(entry, "sample", "NXsample")
        sample["name"] = "Ni foil, 5 \N{MICRO SIGN}m"
        instrument = _group(entry, "instrument", "NXinstrument")
        detector = _group(instrument, "detector", "NXdetector")
        counts = detector.create_dataset("counts", data=frames, dtype="u2", compression="gzip")
        counts.attrs["long_name"] = "counts per pixel"
        data = _group(entry, "data", "NXdata", signal="total", axes="energy")
        data["total"] = [sum(frame) for frame in frames]
        data["energy"] = energy
        data["energy"].attrs["units"] = "keV"


def _edge(energy: float, position: float) -> float:
    return 0.5 + math.atan((energy - position) / 0.004) / math.pi


def _group(parent: h5py.Group, name: str, nx_class: str, **attributes: str) -> h5py.Group:
    group = parent.create_group(name)
    group.attrs.update({"NX_class": nx_class, **attributes})
    return group


if __name__ == "__main__":
    make_scan(FILE)
