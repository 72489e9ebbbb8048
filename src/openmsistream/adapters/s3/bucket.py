"""One bucket of a store: the requests that are made of it, each with its checksums and its errors.

Every method is one request, or one for each page of a list, and may be called from any thread. It must not know
which versions there are, nor what is to be done about an answer.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from threading import Lock
from typing import IO, Any

from openmsistream.adapters.s3.answers import (
    CONDITIONAL,
    NO_SUCH_FEATURE,
    ConditionFailedError,
    NoRightError,
    NoSuchUploadError,
    NotAllowedError,
    NotThereError,
    UnsupportedError,
    WrongKeyError,
    told,
)
from openmsistream.adapters.s3.client import connect
from openmsistream.adapters.s3.naming import Found
from openmsistream.adapters.s3.quick import QuickPut
from openmsistream.config.s3 import S3Access
from openmsistream.errors import ConfigError, DeliveryError, OpenMSIStreamError, StorageError

ABSENT = "*"
"""The condition that there is no such object yet; an ETag as a condition: that it is still this one."""
ANY = ""
"""No condition."""
READ_BYTES = 1024 * 1024
RULE = "openmsistream-unfinished-uploads"

Body = bytes | bytearray | IO[bytes]


@dataclass(frozen=True, slots=True)
class Part:
    """A part that the store has; ``crc`` is the CRC-32 of its bytes, ``digest`` what it is recognised by."""

    number: int
    size: int
    etag: str
    crc: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A multipart upload that was neither completed nor aborted."""

    key: str
    upload_id: str
    began: datetime


class Bucket:
    """
    A bucket.

    Args:
        access: The store, and who we are there.
        name: The bucket's name.
        connections: How many requests go out at once.

    Attributes:
        conditions: False once the store said that it knows no conditional writes.

    Raises:
        ConfigError: The settings make no client.
    """

    def __init__(self, access: S3Access, name: str, connections: int) -> None:
        self.access, self.name = access, name
        self.where = f"bucket {name} at {access.shown}"
        self.conditions = access.conditional_writes == "auto"
        connection = connect(access, connections)
        self.client = connection.client
        self._quick = QuickPut.for_bucket(connection, name)
        self._crc, self._md5 = access.checksums == "auto", access.checksums == "md5"
        self._whole = self._crc  # the store also checks the CRC of a whole multipart object
        self._tags = self._listable = True
        self._lock = Lock()
        for operation in ("PutObjectTagging", "PutBucketLifecycleConfiguration"):
            self.client.meta.events.register(f"before-call.s3.{operation}", self._sum_of_settings)

    # -- at the start -----------------------------------------------------------------------------------------

    def check(self, key: str) -> None:
        """
        Find out whether we may write there: a multipart upload to ``key`` is begun and aborted. Nothing is stored.

        Raises:
            ConfigError: Our keys are wrong, there is no such bucket, or we have no right to write to it.
            StorageError: The store does not answer now.
        """
        try:
            # A list is answered with the reason, where a HEAD only has a number.
            with told(self.where, "it cannot be listed", "s3:ListBucket", NO_SUCH_FEATURE | {NotThereError}):
                self.client.list_objects_v2(Bucket=self.name, MaxKeys=1)
        except WrongKeyError as error:
            raise ConfigError(error.message, hint=error.hint) from error
        except NoRightError:
            self._listable = False  # who may only write may not list: what matters is below
        try:
            self.abort(key, self.begin(key, {}))
            with suppress(OpenMSIStreamError):  # an answer may have been lost
                for other in self.unfinished(key):
                    self.abort(key, other.upload_id)
        except WrongKeyError as error:
            raise ConfigError(error.message, hint=error.hint) from error
        except NoRightError as error:
            raise ConfigError(error.message, hint="give the account that right, or use another one") from error

    # -- objects ------------------------------------------------------------------------------------------------

    def look(self, key: str, *, was_there: bool = False) -> Found | None:
        """
        The object as it stands there, without its tags; None when there is none.

        Args:
            key: Its key.
            was_there: The store just said that there is one: then an account that may not list is not told 403 of
                what is not there, and NoRightError is raised.
        """
        try:
            with told(self.where, f"{key} cannot be looked at", "s3:GetObject and s3:ListBucket", {NotThereError}):
                answer = self.client.head_object(Bucket=self.name, Key=key)
                etag, size = answer["ETag"], int(answer["ContentLength"])
        except NotThereError:
            return None
        except NoRightError:
            if self._listable or was_there:
                raise
            return None  # who may not list is told 403 of what is not there
        modified = int(answer["LastModified"].timestamp() * 1000) if "LastModified" in answer else 0
        version_id = answer.get("VersionId")
        return Found(etag, size, answer.get("Metadata", {}), modified, version_id)

    def put(self, key: str, body: bytes | bytearray, *, crc: int, metadata: Mapping[str, str], condition: str) -> None:
        """
        Store a small object in one request.

        Raises:
            ConditionFailedError: The object is not what ``condition`` says.
        """
        if self._quick is not None and self.conditions:
            headers = {f"x-amz-meta-{name}": value for name, value in metadata.items()}
            stored = self._quick.put(key, body, headers | self._sum_headers(crc, body) | _condition_header(condition))
            if stored:
                return
            if stored is False:
                raise ConditionFailedError(f"{self.where}: {key} is not what it was")
        with told(self.where, f"{key} cannot be written", "s3:PutObject", _may_say(condition)):
            self._conditionally(
                self.client.put_object,
                condition,
                Bucket=self.name,
                Key=key,
                Body=body,
                Metadata=dict(metadata),
                **self._sums(crc, body),
            )

    def objects(self, prefix: str) -> Iterator[list[tuple[str, Found]]]:
        """Every object whose key begins so, by key and in pages, with no metadata."""
        with told(self.where, "it cannot be listed", "s3:ListBucket"):
            for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix):
                yield [(one["Key"], Found(one["ETag"], int(one["Size"]), {})) for one in page.get("Contents", [])]

    def read(self, key: str, etag: str) -> Iterator[bytes]:
        """The bytes of an object in pieces, as long as it is still the one with this ETag."""
        with told(self.where, f"{key} cannot be read", "s3:GetObject", CONDITIONAL | {NotThereError}):
            body = self.client.get_object(Bucket=self.name, Key=key, IfMatch=etag)["Body"]
            try:
                while piece := body.read(READ_BYTES):
                    yield piece
            finally:
                body.close()

    def tags(self, key: str) -> dict[str, str]:
        """The tags of an object; none where the store has none or we may not see them."""
        if not self._tags:
            return {}
        try:
            may_say = NO_SUCH_FEATURE | {NotThereError}
            with told(self.where, f"the tags of {key} cannot be read", "s3:GetObjectTagging", may_say):
                answer = self.client.get_object_tagging(Bucket=self.name, Key=key)
                return {tag["Key"]: tag["Value"] for tag in answer.get("TagSet", [])}
        except (NotThereError, NotAllowedError, NoRightError):
            return {}
        except UnsupportedError:
            self._tags = False
            return {}

    def set_tags(self, key: str, tags: Mapping[str, str]) -> None:
        """
        Give an object these tags instead of those that it has.

        Raises:
            UnsupportedError: The store has none.
            NotThereError: There is no such object.
        """
        wanted = [{"Key": name, "Value": value} for name, value in tags.items()]
        may_say = NO_SUCH_FEATURE | {NotThereError}
        with told(self.where, f"{key} cannot get its tags", "s3:PutObjectTagging", may_say):
            self.client.put_object_tagging(Bucket=self.name, Key=key, Tagging={"TagSet": wanted})

    # -- multipart uploads ----------------------------------------------------------------------------------------

    def begin(self, key: str, metadata: Mapping[str, str]) -> str:
        """Begin a multipart upload; its id."""
        while True:
            crc, whole = self._crc, self._whole
            more = {"ChecksumAlgorithm": "CRC32"} if crc else {}
            if whole:
                more["ChecksumType"] = "FULL_OBJECT"
            try:
                with told(self.where, f"{key} cannot be written", "s3:PutObject", {UnsupportedError}):
                    answer = self.client.create_multipart_upload(
                        Bucket=self.name, Key=key, Metadata=dict(metadata), **more
                    )
                return str(answer["UploadId"])
            except (StorageError, UnsupportedError) as error:
                if not crc or not _may_be_checksums(error.message):
                    raise
                # Older stores know CRCs of parts alone, or none at all.
                with self._lock:
                    self._crc, self._whole = whole, False
                    self._md5 = not self._crc

    def put_part(self, key: str, upload_id: str, number: int, body: Body, *, size: int, crc: int) -> str:
        """
        Send a part; its ETag.

        Raises:
            NoSuchUploadError: There is no such upload.
        """
        may_say = {UnsupportedError, NoSuchUploadError}
        with told(self.where, f"{key} cannot be written", "s3:PutObject", may_say):
            answer = self.client.upload_part(
                Bucket=self.name,
                Key=key,
                UploadId=upload_id,
                PartNumber=number,
                Body=body,
                ContentLength=size,
                **self._sums(crc, body),
            )
            return str(answer["ETag"])

    def complete(self, key: str, upload_id: str, parts: Sequence[Part], *, crc: int, condition: str) -> None:
        """
        Make an object of an upload's parts.

        Raises:
            ConditionFailedError: The object is not what ``condition`` says; the upload stays.
            NoSuchUploadError: There is no such upload.
        """
        listed = [
            {"PartNumber": part.number, "ETag": part.etag, **({"ChecksumCRC32": _coded(part.crc)} if self._crc else {})}
            for part in parts
        ]
        more = {"ChecksumType": "FULL_OBJECT", "ChecksumCRC32": _coded(crc)} if self._whole else {}
        may_say = _may_say(condition) | {NoSuchUploadError}
        with told(self.where, f"{key} cannot be completed", "s3:PutObject", may_say):
            self._conditionally(
                self.client.complete_multipart_upload,
                condition,
                Bucket=self.name,
                Key=key,
                UploadId=upload_id,
                MultipartUpload={"Parts": listed},
                **more,
            )

    def abort(self, key: str, upload_id: str) -> None:
        """Remove an upload and its parts; nothing happens when there is none."""
        with told(self.where, f"an unfinished upload of {key} cannot be removed", "s3:AbortMultipartUpload"):
            try:
                self.client.abort_multipart_upload(Bucket=self.name, Key=key, UploadId=upload_id)
            except self.client.exceptions.NoSuchUpload:
                return

    def unfinished(self, key: str) -> list[Unfinished]:
        """The multipart uploads under exactly this key."""
        with told(self.where, f"unfinished uploads of {key} cannot be listed", "s3:ListBucketMultipartUploads"):
            pages = self.client.get_paginator("list_multipart_uploads").paginate(Bucket=self.name, Prefix=key)
            return [
                Unfinished(one["Key"], one["UploadId"], one["Initiated"])
                for page in pages
                for one in page.get("Uploads", [])
                if one["Key"] == key
            ]

    def set_abort_rule(self, days: int) -> None:
        """
        Give the bucket a rule that removes uploads that were begun so many days ago; its other rules stay.

        Raises:
            UnsupportedError: The store has no such rules.
            StorageError: It does not answer, or we have no right to.
        """
        rules: list[Any] = []
        with told(self.where, "its rules cannot be read", "s3:GetLifecycleConfiguration", NO_SUCH_FEATURE):
            try:
                rules = self.client.get_bucket_lifecycle_configuration(Bucket=self.name).get("Rules", [])
            except self.client.exceptions.ClientError as error:
                if error.response["Error"]["Code"] != "NoSuchLifecycleConfiguration":
                    raise
        rules = [rule for rule in rules if rule.get("ID") != RULE]
        rule = {
            "ID": RULE,
            "Status": "Enabled",
            "Filter": {"Prefix": ""},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": days},
        }
        with told(self.where, "it cannot get the rule", "s3:PutLifecycleConfiguration", NO_SUCH_FEATURE):
            self.client.put_bucket_lifecycle_configuration(
                Bucket=self.name, LifecycleConfiguration={"Rules": [*rules, rule]}
            )

    def close(self) -> None:
        """Let go of the connections."""
        if self._quick is not None:
            self._quick.close()
        self.client.close()

    # -- checksums and conditions -------------------------------------------------------------------------------

    def _sum_headers(self, crc: int, body: Body) -> dict[str, str]:
        names = {"ChecksumCRC32": "x-amz-checksum-crc32", "ContentMD5": "Content-MD5"}
        return {names[name]: value for name, value in self._sums(crc, body).items()}

    def _sum_of_settings(self, params: dict[str, Any], **_: object) -> None:
        """S3 wants a checksum with these: where a store knows no CRC, the one that all know instead of botocore's."""
        if not self._crc:
            params["context"].pop("checksum", None)
            params["headers"]["Content-MD5"] = base64.b64encode(_md5(params["body"])).decode()

    def _sums(self, crc: int, body: Body) -> dict[str, str]:
        if self._crc:
            return {"ChecksumCRC32": _coded(crc)}
        if self._md5:
            return {"ContentMD5": base64.b64encode(_md5(body)).decode()}
        return {}

    def _conditionally(self, request: Any, condition: str, **more: Any) -> None:
        if not self.conditions and condition != ANY:
            self._compare(more["Key"], condition)
            condition = ANY
        if condition == ANY:
            request(**more)
            return
        named = {"IfNoneMatch": ABSENT} if condition == ABSENT else {"IfMatch": condition}
        try:
            request(**named, **more)
        except self.client.exceptions.ClientError as error:
            code = error.response.get("Error", {}).get("Code")
            # "If-Match on a key that does not exist" is 404 for AWS.
            if code == "NoSuchKey" and condition != ABSENT:
                raise ConditionFailedError(f"{self.where}: {more['Key']} is gone") from error
            if code not in {"NotImplemented", "501"}:
                raise
            self.conditions = False
            self._conditionally(request, condition, **more)

    def _compare(self, key: str, condition: str) -> None:
        """The same as a condition, only that somebody may still come between: for stores that know none."""
        found = self.look(key)
        if ("" if condition == ABSENT else condition) != ("" if found is None else found.etag):
            raise ConditionFailedError(f"{self.where}: {key} is not what it was")


def _may_say(condition: str) -> frozenset[type[DeliveryError]]:
    """What a store may answer for good when it is to make an object."""
    unsupported: frozenset[type[DeliveryError]] = frozenset({UnsupportedError})
    return unsupported if condition == ANY else unsupported | CONDITIONAL


def _condition_header(condition: str) -> dict[str, str]:
    if condition == ANY:
        return {}
    return {"If-None-Match": ABSENT} if condition == ABSENT else {"If-Match": condition}


def _coded(crc: int) -> str:
    return base64.b64encode(crc.to_bytes(4, "big")).decode()


def _md5(body: Body) -> bytes:
    digest = hashlib.md5(usedforsecurity=False)
    if isinstance(body, bytes | bytearray):
        digest.update(body)
        return digest.digest()
    for piece in iter(lambda: body.read(READ_BYTES), b""):
        digest.update(piece)
    body.seek(0)
    return digest.digest()


def _may_be_checksums(message: str) -> bool:
    codes = ("InvalidRequest", "InvalidArgument", "NotImplemented", "MalformedXML", "InvalidParameter")
    return any(code in message for code in codes)
