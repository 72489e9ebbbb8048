"""The console scripts with the names of 1.x."""

from __future__ import annotations

import sys

from openmsistream.cli.main import run_script
from openmsistream.config.options import UploadOptions, WatchOptions
from openmsistream.config.options_download import DownloadOptions
from openmsistream.config.options_s3 import S3Options


def upload_data_file() -> None:
    """``UploadDataFile``."""
    sys.exit(run_script(UploadOptions, "UploadDataFile"))


def data_file_upload_directory() -> None:
    """``DataFileUploadDirectory``."""
    sys.exit(run_script(WatchOptions, "DataFileUploadDirectory"))


def data_file_download_directory() -> None:
    """``DataFileDownloadDirectory``."""
    sys.exit(run_script(DownloadOptions, "DataFileDownloadDirectory"))


def s3_transfer_stream_processor() -> None:
    """``S3TransferStreamProcessor``."""
    sys.exit(run_script(S3Options, "S3TransferStreamProcessor"))


def osn_stream_processor() -> None:
    """``OSNStreamProcessor``, the name in 0.9."""
    sys.exit(run_script(S3Options, "OSNStreamProcessor"))
