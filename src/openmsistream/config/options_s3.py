"""The options of delivery to an object store: ``S3TransferStreamProcessor``, ``openmsistream s3``.

Owns names, kinds, defaults and help texts, as ``config.options`` does for the other programs; names and defaults are
those of 1.x wherever it has the option. What only this program has may stand in ``[s3]`` of a config file.
"""

# ruff: noqa: RUF009 - every option is written as one call that also holds its help text
from __future__ import annotations

import re
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from openmsistream.config.ini import Settings
from openmsistream.config.kinds import Choice, FilePath, Switch, Text, Whole
from openmsistream.config.options import GROUPS, Option, option, options_of
from openmsistream.config.options_download import DownloadOptions, ReadingOptions
from openmsistream.config.s3 import KEYS, configured_bucket
from openmsistream.config.sections import allowed_for, from_file, layered, read_keys
from openmsistream.errors import ConfigError

DEFAULT_TEMPLATE = "{topic}/{path}"
TEMPLATE_FIELDS = ("topic", "path", "folder", "name")
_KAFKA, _FILES, _, _RUN, _, _ = GROUPS
# S3 itself takes 3 to 63 lower-case letters, digits, dots and hyphens; older stores take more.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")


@dataclass(frozen=True, slots=True)
class Bucket:
    """The name of a bucket."""

    metavar: str = "BUCKET"

    def accept(self, value: object) -> str:
        """The name, when a store may have such a bucket."""
        text = str(value).strip()
        if not _BUCKET.fullmatch(text):
            raise ValueError("is not the name of a bucket: letters, digits, hyphens and dots, as xrd-archive")
        return text

    def show(self, value: object) -> str:
        """The name."""
        return str(value)


@dataclass(frozen=True, slots=True)
class Template:
    """What objects are called: text with ``{topic}``, ``{path}``, ``{folder}`` and ``{name}``."""

    metavar: str = "TEMPLATE"

    def accept(self, value: object) -> str:
        """The text; it holds at least ``{path}`` or ``{name}``."""
        text = str(value).strip()
        try:
            pieces = list(string.Formatter().parse(text))
        except ValueError:
            raise ValueError("is not a template for keys: a bracket is not closed") from None
        named = [name for _, name, _, _ in pieces if name is not None]
        plain = all(not spec and conversion is None for _, name, spec, conversion in pieces if name is not None)
        if not plain or not set(named) <= set(TEMPLATE_FIELDS) or not {"path", "name"} & set(named):
            raise ValueError("is not a template for keys, as {topic}/{path} or archive/{folder}/{name}")
        return text

    def show(self, value: object) -> str:
        """The text."""
        return str(value)


def _as_download(name: str) -> Any:
    item, _ = options_of(DownloadOptions)[name]
    return field(default=item.default, metadata=item.metadata)


@dataclass(frozen=True, kw_only=True)
class S3Options(ReadingOptions):
    """Put every file of a topic into a bucket: ``S3TransferStreamProcessor``, ``openmsistream s3``."""

    SECTION: ClassVar[str] = "download"

    bucket_name: str = field(
        metadata={
            "option": Option(
                Bucket(),
                "the bucket to write to, which exists; else [s3] bucket_name",
                "",
                positional=True,
                by_config=True,
            )
        }
    )
    config: str = option(
        "test_s3_transfer", Text("NAME"), "config file: its path, or its name in a config folder", group=_KAFKA
    )
    download_regex: str | None = _as_download("download_regex")
    include: tuple[str, ...] | None = _as_download("include")
    exclude: tuple[str, ...] | None = _as_download("exclude")
    expire_after: float = _as_download("expire_after")
    key_template: str = option(
        DEFAULT_TEMPLATE,
        Template(),
        "what objects are called; {folder} and {name} are the parts of {path}",
        group=_FILES,
    )
    mode: str = option(
        "memory",
        Choice(("memory", "disk", "both")),
        "disk or both: also write the files to a folder here, as openmsistream download does",
        group=_FILES,
    )
    output_dir: Path | None = option(
        None,
        FilePath("FOLDER", "new folder"),
        "the folder for these copies",
        group=_FILES,
        unset="S3TransferStreamProcessor_output here",
    )
    verify_read_back: bool = option(
        False, Switch(), "read every object back and compare its hash, besides the store's own checks", group=_FILES
    )
    upload_threads: int = option(
        4, Whole(1, 64), "how many parts of large files are sent at once; each takes 8 MB of memory or more", group=_RUN
    )
    put_threads: int = option(32, Whole(1, 128), "how many small files are sent at once", group=_RUN)
    set_abort_rule: int | None = option(
        None,
        Whole(1, 365, "DAYS"),
        "give the bucket a rule that removes what is left of unfinished uploads after so many days, and end",
        group=_RUN,
        unset="its rules are left alone",
    )
    until_idle: float | None = _as_download("until_idle")

    @property
    def copies(self) -> Path | None:
        """The folder for copies on disk; None when there are to be none."""
        if self.mode == "memory":
            return None
        return self.output_dir or Path("S3TransferStreamProcessor_output")


def connection(section: Settings) -> Settings:
    """What ``[s3]`` says of the store, without the options that may stand there, too."""
    return section.without(*(key for key in section if key.replace("-", "_") in _own()))


def defaults_from_file(download: Settings, s3: Settings, env: Mapping[str, str]) -> dict[str, Any]:
    """
    What a config file says about the options, by name: ``[download]``, and over it ``[s3]``.

    Args:
        download: ``[download]`` as written.
        s3: ``[s3]`` as written.
        env: The environment, for the name of the bucket where the file does not say it.

    Raises:
        ConfigError: An option or its value is wrong there.
    """
    own = [key for key in s3 if key.replace("-", "_") in _own()]
    options = s3.without(*(key for key in s3 if key not in own))
    bucket = configured_bucket(connection(s3), env)
    return layered(
        {} if bucket is None else {"bucket_name": bucket},
        from_file(S3Options, download),
        read_keys(options, allowed_for((S3Options,), "s3")),
    )


def names_of(bucket: str, template: str) -> tuple[str, str]:
    """
    Return a bucket's name and a template for keys as they are to be used.

    Raises:
        ConfigError: One of them is not allowed.
    """
    try:
        accepted = Bucket().accept(bucket)
    except ValueError as error:
        raise ConfigError(f"bucket: {bucket!r} {error}") from None
    try:
        return accepted, Template().accept(template)
    except ValueError as error:
        raise ConfigError(f"key_template: {template!r} {error}") from None


def _own() -> frozenset[str]:
    """The options that only this program has."""
    elsewhere = options_of(DownloadOptions).keys() - {"output_dir"}
    return frozenset(options_of(S3Options).keys() - elsewhere - set(KEYS) - {"config"})
