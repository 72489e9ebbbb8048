"""Delivery to an object store: a large file beside ``boto3.upload_file``, its memory, and many small ones.

Starts a store of its own, fills topics with our uploader, and takes times and resources of ``openmsistream s3`` from
outside. What is compared runs on the same store in the same run, one after the other.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from blake3 import blake3

from bench import targets
from bench.alone import SECONDS, Finding, Play, Stage, judged, played
from bench.material import Material, make
from bench.running import Running, Usage
from openmsistream.errors import IntegrityError
from openmsistream.local.buckets import Access, s3_client
from openmsistream.local.store import LocalStore
from tests.faults.http_proxy import Delay, HttpProxy

LARGE, HUGE, SMALL, FAR = "s3-large", "s3-huge", "s3-small", "s3-far"
SCENARIOS = (LARGE, SMALL, FAR, HUGE)
LONG_SCENARIOS = frozenset({HUGE})
_BUCKET = "bench"
_MIB = 1024 * 1024
_IDLE_SECONDS = "3"
_FAR_SECONDS = 0.02
_READ_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is moved, and how often what is compared takes turns."""

    large_bytes: int = 1024 * _MIB
    huge_bytes: int = 10 * 1024 * _MIB
    small_count: int = 5000
    small_alone: int = 300
    small_bytes: int = 10_000
    rounds: int = 3


FULL = Sizes()
QUICK = Sizes(large_bytes=64 * _MIB, huge_bytes=256 * _MIB, small_count=500, small_alone=100, rounds=1)


def measure(
    bootstrap: str, work: Path, wanted: Collection[str], sizes: Sizes, say: Callable[[str], None]
) -> list[Finding]:
    """Run the wanted scenarios on a store that is removed after them; as ``alone.played``, with the sizes."""
    if not set(SCENARIOS) & set(wanted):
        return []
    store = LocalStore.start(work / "store")
    try:
        store.create_bucket(_BUCKET)
        plays: dict[str, Play] = {
            LARGE: lambda stage: _large(stage, store, sizes),
            SMALL: lambda stage: _small(stage, store, sizes),
            FAR: lambda stage: _far(stage, store, sizes),
            HUGE: lambda stage: _huge(stage, store, sizes.huge_bytes),
        }
        return played(plays, bootstrap, work, wanted, say)
    finally:
        store.stop()


def _large(stage: Stage, store: LocalStore, sizes: Sizes) -> list[Finding]:
    """One file from its topic, against ``boto3.upload_file`` of the same file from disk; they take turns."""
    material = _on_topic(stage, 1, sizes.large_bytes)
    ratios, speeds, usages = [], [], []
    with contextlib.closing(store.client()) as client:
        for number in range(sizes.rounds):
            bare = _upload_file(client, material)
            usage, seconds = _deliver(stage, store.access, number, 1)
            _check(client, material, f"{stage.topic}/")
            ratios.append(bare / seconds)
            speeds.append(sizes.large_bytes / seconds / 1e6)
            usages.append(usage)
            _empty(client)
    return [
        judged(LARGE, targets.S3_OF_BARE, statistics.median(ratios)),
        Finding(LARGE, "speed", statistics.median(speeds), "MB/s"),
        Finding(LARGE, "CPU", statistics.median(u.cpu_seconds for u in usages) / sizes.large_bytes * 1e9, "s/GB"),
        judged(LARGE, targets.S3_RSS, max(u.rss_bytes for u in usages) / 1e6),
    ]


def _huge(stage: Stage, store: LocalStore, size: int) -> list[Finding]:
    """One very large file: memory must not grow with it."""
    material = _on_topic(stage, 1, size)
    usage, seconds = _deliver(stage, store.access, 0, 1)
    with contextlib.closing(store.client()) as client:
        _check(client, material, f"{stage.topic}/")
        _empty(client)
    return [
        judged(HUGE, targets.S3_RSS_HUGE, usage.rss_bytes / 1e6),
        Finding(HUGE, "speed", size / seconds / 1e6, "MB/s"),
    ]


def _small(stage: Stage, store: LocalStore, sizes: Sizes) -> list[Finding]:
    """Many small files, against a loop of ``put_object``."""
    return _many(stage, store.access, store, sizes, SMALL, targets.S3_SMALL_OF_LOOP)


def _far(stage: Stage, store: LocalStore, sizes: Sizes) -> list[Finding]:
    """The same with a store that is not on this computer: every answer takes 20 ms more, which costs no processor."""
    with HttpProxy(store.port) as line:
        line.rule = lambda _: Delay(_FAR_SECONDS)
        access = replace(store.access, endpoint=line.address)
        return _many(stage, access, store, sizes, FAR, targets.S3_FAR_OF_LOOP)


def _many(
    stage: Stage, access: Access, store: LocalStore, sizes: Sizes, scenario: str, target: targets.Target
) -> list[Finding]:
    material = _on_topic(stage, sizes.small_count, sizes.small_bytes)
    ratios, speeds, usages = [], [], []
    with contextlib.closing(s3_client(access)) as there, contextlib.closing(store.client()) as client:
        for number in range(sizes.rounds):
            bare = _put_loop(there, material, sizes.small_alone)
            usage, seconds = _deliver(stage, access, number, sizes.small_count)
            _check(client, material, f"{stage.topic}/")
            ratios.append(sizes.small_count / seconds / bare)
            speeds.append(sizes.small_count / seconds)
            usages.append(usage)
            _empty(client)
    return [
        judged(scenario, target, statistics.median(ratios)),
        Finding(scenario, "speed", statistics.median(speeds), "files/s"),
        Finding(
            scenario,
            "CPU for 1,000 files",
            statistics.median(u.cpu_seconds for u in usages) / sizes.small_count * 1e3,
            "s",
        ),
        Finding(scenario, "peak memory", max(u.rss_bytes for u in usages) / 1e6, "MB"),
    ]


def _on_topic(stage: Stage, count: int, size: int) -> Material:
    material = make(stage.watched, count, size)
    with stage.watch("--once", "--upload_existing", "--watchdog_lag_time", "0") as running:
        running.finish(SECONDS)
    stage.require_sent(count)
    return material


def _deliver(stage: Stage, access: Access, number: int, files: int) -> tuple[Usage, float]:
    """Run our program to its end; what it used, and the time from the first record of files to the last one's end."""
    config = stage.base / "s3.config"
    config.write_text(
        f"[broker]\nbootstrap.servers = {stage.bootstrap}\n[s3]\nendpoint_url = {access.endpoint}\n"
        f"access_key_id = {access.access_key}\nsecret_key_id = {access.secret_key}\nregion = {access.region}\n",
        encoding="utf-8",
    )
    notes = stage.base / "s3"
    notes.mkdir(exist_ok=True)
    os.sync()
    words = ("s3", _BUCKET, "--config", str(config), "--topic-name", stage.topic, "--until-idle", _IDLE_SECONDS)
    more = ("--state-dir", str(stage.base / f"state {number}"), "--json", "--progress", "none")
    with Running([sys.executable, "-m", "openmsistream", *words, *more], notes, count='"file_delivered"') as running:
        usage = running.finish(SECONDS)
        # A file of one record does not say when it begins.
        begun = running.times_of("file_started") or running.times_of("program_started")
        done = running.times_of("file_delivered")
    if len(done) != files:
        raise IntegrityError(f"{len(done)} of {files} files were reported as delivered:\n{running.last_words()}")
    return usage, done[-1] - begun[0]


def _upload_file(client: Any, material: Material) -> float:
    (path,) = material.paths
    os.sync()
    began = time.monotonic()
    client.upload_file(str(path), _BUCKET, "bare/scan.dat")
    return time.monotonic() - began


def _put_loop(client: Any, material: Material, count: int) -> float:
    """Files a second."""
    bodies = [path.read_bytes() for path in material.paths[:count]]
    began = time.monotonic()
    for number, body in enumerate(bodies):
        client.put_object(Bucket=_BUCKET, Key=f"bare/{number}", Body=body)
    return count / (time.monotonic() - began)


def _check(client: Any, material: Material, prefix: str) -> None:
    """Compare every object with the file it was made from, by its hash."""
    found = {}
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=_BUCKET, Prefix=prefix):
        for one in page.get("Contents", []):
            digest = blake3()
            for piece in client.get_object(Bucket=_BUCKET, Key=one["Key"])["Body"].iter_chunks(_READ_BYTES):
                digest.update(piece)
            found[one["Key"].removeprefix(prefix)] = digest.digest()
    if found != dict(material.digests):
        raise IntegrityError(f"bucket {_BUCKET}: what is there is not what was sent; {len(found)} objects are there")


def _empty(client: Any) -> None:
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=_BUCKET):
        keys = [{"Key": one["Key"]} for one in page.get("Contents", [])]
        if keys:
            client.delete_objects(Bucket=_BUCKET, Delete={"Objects": keys, "Quiet": True})
