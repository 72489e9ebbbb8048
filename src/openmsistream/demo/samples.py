"""The files the demo sends: made up, but shaped like those of a laboratory, and the same at every run.

Owns their content and their names: sub-folders, spaces and letters outside ASCII, an empty file, one of some
hundred MB. Knows nothing about programs, brokers or progress. Uses the standard library and BLAKE3 only, so
that the demo needs nothing that the package does not need anyway.
"""

from __future__ import annotations

import array
import math
import random
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath

import blake3

MIB = 1024 * 1024

# 2-theta in degrees and relative height of silicon's first peaks for Cu K-alpha.
# Source: Bragg's law with a = 5.431 A.
_SILICON = ((28.44, 1.0), (47.30, 0.55), (56.12, 0.30), (69.13, 0.06), (76.38, 0.11))


@dataclass(frozen=True, slots=True)
class Sample:
    """
    One file of the demo.

    Attributes:
        path: Relative POSIX path below the watched folder.
        what: What it is, in a few words for the reader.
        parts: Gives the content, piece by piece.
    """

    path: str
    what: str
    parts: Callable[[], Iterator[bytes]]

    def write(self, root: Path) -> int:
        """
        Write the file below ``root``, with its folders, and return its size in bytes.

        Raises:
            OSError: The folder cannot be written.
        """
        target = root.joinpath(*PurePosixPath(self.path).parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            return sum(file.write(part) for part in self.parts())


def samples_before(size_mb: int) -> list[Sample]:
    """
    Return the files that are in the folder before the upload starts.

    Args:
        size_mb: Size of the large file in units of 1,000,000 bytes; >= 1.
    """
    return [
        Sample("XRD/Si powder 25 °C.csv", "diffraction pattern, text", lambda: one(diffraction(25))),
        Sample("XRD/measurement finished.txt", "empty file", lambda: one(b"")),
        Sample("SEM/Probe Ä/grains 01.png", "micrograph, PNG image", lambda: one(micrograph(1))),
        Sample("oscilloscope/pulse 0007.trc", "oscilloscope trace, binary", lambda: one(trace(7))),
        Sample("beamline/scan_0042.nxs", "X-ray scan, NeXus/HDF5", lambda: one(nexus())),
        Sample("SEM/tomography/tilt series.raw", "large image series", lambda: large(size_mb * 1_000_000)),
    ]


def samples_while_running() -> list[Sample]:
    """
    Return the files that appear one after the other while the folder is watched.

    The first stands in a new folder; the last has the path of an earlier one: saved again, with more in it.
    """
    return [
        Sample("XRD/Öfen/Si powder 300 °C.csv", "new file, new folder", lambda: one(diffraction(300))),
        Sample("oscilloscope/pulse 0008.trc", "new file", lambda: one(trace(8))),
        Sample("XRD/Si powder 25 °C.csv", "saved again, longer", lambda: one(diffraction(25, stop=110.0))),
    ]


def one(content: bytes) -> Iterator[bytes]:
    """Yield a content that fits in memory as its only piece."""
    yield content


def diffraction(celsius: int, stop: float = 90.0) -> bytes:
    """
    Return a powder diffraction pattern as CSV in plain ASCII: peaks on a background, with counting noise.

    Args:
        celsius: Temperature of the sample; peaks move to lower angles with it.
        stop: Last angle in degrees.
    """
    chance = random.Random(celsius)  # noqa: S311 - noise in a picture, no secret
    lines = [f"# sample: Si powder; temperature: {celsius} C; wavelength: 1.5406 A", "two_theta_deg,counts"]
    for step in range(int((stop - 20.0) / 0.02) + 1):
        angle = 20.0 + 0.02 * step
        expected = 40 + 1500 * math.exp(-angle / 12)
        for position, height in _SILICON:
            moved = position - 2.6e-6 * (celsius - 25) * position
            expected += 9000 * height / (1 + ((angle - moved) / 0.06) ** 2)
        lines.append(f"{angle:.2f},{max(0, round(chance.gauss(expected, math.sqrt(expected))))}")
    return ("\n".join(lines) + "\n").encode("ascii")


def micrograph(seed: int, width: int = 176, height: int = 128) -> bytes:
    """
    Return a grey PNG image of crystal grains with dark boundaries.

    Source: PNG specification (ISO/IEC 15948): signature, IHDR, IDAT, IEND; 8-bit grey, filter 0.
    """
    chance = random.Random(seed)  # noqa: S311 - noise in a picture, no secret
    grains = [(chance.uniform(0, width), chance.uniform(0, height), chance.uniform(70, 220)) for _ in range(20)]
    rows = bytearray()
    for y in range(height):
        rows.append(0)
        for x in range(width):
            near = sorted(((gx - x) ** 2 + (gy - y) ** 2, grey) for gx, gy, grey in grains)
            boundary = math.sqrt(near[1][0]) - math.sqrt(near[0][0]) < 1.5
            rows.append(25 if boundary else min(255, max(0, round(chance.gauss(near[0][1], 6)))))
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(rows), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


def trace(number: int, points: int = 50_000) -> bytes:
    """
    Return an oscilloscope trace: a 32-byte little-endian header, then int16 samples of a damped pulse.

    The header: 8 bytes ``SCOPE1``, uint32 number, uint32 points, float64 seconds and float64 volts per step.
    """
    chance = random.Random(number)  # noqa: S311 - noise in a picture, no secret
    header = struct.pack("<8sIIdd", b"SCOPE1", number, points, 1e-9, 2.5e-4)
    start = points // 10
    wave = array.array("h", (round(chance.gauss(0, 30)) for _ in range(points)))
    for i in range(start, points):
        age = (i - start) / points
        wave[i] += round(20_000 * math.exp(-8 * age) * math.sin(160 * age))
    if sys.byteorder == "big":
        wave.byteswap()
    return header + wave.tobytes()


def nexus() -> bytes:
    """Return the NeXus/HDF5 file that the package ships (made by ``packaging/make_demo_scan.py``)."""
    return resources.files("openmsistream.demo").joinpath("files", "scan_0042.nxs").read_bytes()


def large(size_bytes: int) -> Iterator[bytes]:
    """
    Yield ``size_bytes`` bytes that no compression makes smaller, in pieces of 1 MiB.

    BLAKE3's extended output: as good as random, the same at every run, and faster than any disk.
    """
    stream = blake3.blake3(b"openmsistream demo")
    for start in range(0, size_bytes, MIB):
        yield stream.digest(length=min(MIB, size_bytes - start), seek=start)
