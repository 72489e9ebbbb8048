"""
S3 object stores as a destination: everything that talks to one, and what is kept here of unfinished uploads.

The modules need the package boto3, an extra: ask ``require_boto3`` before one of them is imported.
"""

from __future__ import annotations

from importlib.util import find_spec

from openmsistream.errors import ConfigError


def require_boto3() -> None:
    """Raise ConfigError when boto3 is not installed."""
    if find_spec("boto3") is None:
        raise ConfigError(
            "delivery to an object store needs the package boto3, which is not installed",
            hint='pip install "openmsistream[s3]"',
        )
