"""What tests of delivery to a bucket share: the program on a topic and a bucket, and what stands in the bucket.

Knows how the program is started and asks the store with a bare boto3 client. It must not know how the program works.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openmsistream.local.buckets import Access
from openmsistream.local.store import LocalStore
from tests.faults.support import Place, Program, config, program


@dataclass
class BucketPlace(Place):
    """
    The folders, topic and bucket of one test.

    Attributes:
        endpoint: Where the program finds the store; a proxy's address can be put in.
    """

    store: LocalStore
    bucket: str
    endpoint: str = ""
    access: Access = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.access = self.store.access
        self.endpoint = self.endpoint or self.access.endpoint
        self.configure()

    def configure(self, **sections: str) -> None:
        """Write the config file anew, with further lines of its sections; ``s3`` replaces the keys of [s3]."""
        access = self.access
        lines = sections.pop(
            "s3", f"access_key_id = {access.access_key}\nsecret_key_id = {access.secret_key}\nregion = {access.region}"
        )
        self.config = config(self.base, self.bootstrap, **sections)
        with self.config.open("a", encoding="utf-8") as file:
            file.write(f"[s3]\nendpoint_url = {self.endpoint}\n{lines}\n")

    @property
    def state(self) -> Path:
        """The state folder of the program."""
        return self.base / "state s3"

    @property
    def work(self) -> Path:
        """The work folder of the program, once it has run."""
        (found,) = self.state.glob("s3-*")
        return found

    def to_s3(self, *options: object, **more: Any) -> Program:
        """Start the program that delivers to the bucket."""
        words = ("--config", self.config, "--topic-name", self.topic, "--state-dir", self.state)
        return program("s3", self.bucket, *words, *options, **more)

    def deliver(self, *options: object, idle: float = 1.0, **more: Any) -> Program:
        """Run it until nothing comes any more; fails when it does not end well."""
        with self.to_s3("--until-idle", idle, *options, **more) as receiver:
            assert receiver.wait() in {0, 3}, receiver.stderr + str(receiver.events[-3:])
        return receiver

    def objects(self) -> dict[str, str]:
        """SHA-256 of every object by its key, without the topic in front."""
        found = {}
        with self.client() as client:
            for key in self._keys(client):
                digest = hashlib.sha256()
                body = client.get_object(Bucket=self.bucket, Key=key)["Body"]
                for piece in body.iter_chunks(1024 * 1024):
                    digest.update(piece)
                found[key.removeprefix(f"{self.topic}/")] = digest.hexdigest()
        return found

    def keys(self) -> set[str]:
        """The keys of all objects."""
        with self.client() as client:
            return set(self._keys(client))

    def head(self, path: str) -> dict[str, Any]:
        """What a HEAD says of a path's object."""
        with self.client() as client:
            return dict(client.head_object(Bucket=self.bucket, Key=f"{self.topic}/{path}", ChecksumMode="ENABLED"))

    def tags(self, path: str) -> dict[str, str]:
        """The tags of a path's object."""
        with self.client() as client:
            found = client.get_object_tagging(Bucket=self.bucket, Key=f"{self.topic}/{path}")["TagSet"]
        return {tag["Key"]: tag["Value"] for tag in found}

    @contextlib.contextmanager
    def client(self) -> Iterator[Any]:
        """A bare client of the store."""
        with contextlib.closing(self.store.client()) as client:
            yield client

    def _keys(self, client: Any) -> Iterator[str]:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket):
            for one in page.get("Contents", []):
                yield one["Key"]
