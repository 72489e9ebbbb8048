"""``[folder NAME]``: several folders, each with a topic and rules of its own, that one program watches.

Owns what such a section may say, how it stands over ``[upload]`` and below what is typed, and that no file would be
sent twice. It must not know how folders are watched.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from openmsistream.config.ini import IniFile
from openmsistream.config.kinds import FilePath
from openmsistream.config.options import WatchOptions
from openmsistream.config.sections import Allowed, Refusal, allowed_for, layered, read_keys
from openmsistream.errors import ConfigError

SECTION = "folder"
PROGRAM_WIDE = frozenset(
    {
        "once", "dry_run", "low_priority", "json", "progress", "logger_stream_level", "logger_file_level",
        "logger_file_path", "log_topic_name", "log_program_id", "log_interval_secs",
    }
)  # fmt: skip
"""Options that hold for the program that watches the folders, and so are the same for all of them."""
_PROGRAM_WIDE = Refusal(
    "holds for all folders of the program", "put the line into [upload], or give it on the command line"
)
_OTHER_NAME = Refusal("is called path here", "write path = FOLDER")
_MAX_NAME = 64
_PATH = "path"


@dataclass(frozen=True, slots=True)
class WatchedFolder:
    """
    One ``[folder NAME]`` section.

    Attributes:
        name: What the program calls it in everything it reports.
        path: The folder; a relative path was taken from where the config file is.
        options: The options that the section sets, by name.
        heading: Where the section stands, for errors.
        place: Where its path stands, for errors.
    """

    name: str
    path: Path
    options: Mapping[str, Any]
    heading: str
    place: str

    def watch_options(self, upload: Mapping[str, Any], typed: Mapping[str, Any]) -> WatchOptions:
        """
        The options to watch it with: what was typed, over the section, over ``[upload]``, over the defaults.

        Raises:
            ConfigError: The folder is not there, or a value is not allowed.
        """
        try:
            FilePath("FOLDER", "folder").accept(self.path)
        except ValueError as error:
            raise ConfigError(
                f"{self.place}: {str(self.path)!r} {error}",
                hint="make the folder, connect its drive, or correct the path",
            ) from None
        values = layered(upload, self.options, typed)
        values["upload_dir"] = self.path
        return WatchOptions(**values, given=frozenset(values))


def folder_sections(ini: IniFile) -> dict[str, WatchedFolder]:
    """
    Every ``[folder NAME]`` by its name, in the file's order.

    Raises:
        ConfigError: A section has no name or no path, two have one name, or a key or value is wrong; names file,
            section, key, line, value and what is allowed.
    """
    found: dict[str, WatchedFolder] = {}
    for section, name in ini.family(SECTION):
        heading = ini.heading(section)
        if not name or len(name) > _MAX_NAME or not name.isprintable():
            raise ConfigError(
                f"{heading}: the section has no name of 1 to {_MAX_NAME} characters",
                hint="write [folder NAME], with a name that says which folder it is",
            )
        twin = next((other for other in found if other.casefold() == name.casefold()), None)
        if twin is not None:
            raise ConfigError(
                f"{heading}: the name is already taken by {found[twin].heading}", hint="give each folder its own name"
            )
        settings = ini.section(section, own=True)
        path = settings.get(_PATH, "").strip()
        if not path or "\0" in path:
            raise ConfigError(
                f"{heading}: it is not said which folder to watch", hint="add a line such as path = /data/xrd"
            )
        found[name] = WatchedFolder(
            name,
            # Not from where the program was started: a service is started from anywhere.
            ini.path.absolute().parent / path,
            read_keys(settings.without(_PATH), _allowed(section)),
            heading,
            settings.origin(_PATH),
        )
    return found


def refuse_twice(folders: Mapping[str, WatchedFolder], options: Mapping[str, WatchOptions]) -> None:
    """
    Check that no file would be sent to one topic twice.

    Args:
        folders: The sections.
        options: What each of them is watched with, by the same names.

    Raises:
        ConfigError: Two have one folder and topic, or one folder lies in the other and both have one topic.
    """
    places = [
        (folders[name], os.path.normcase(os.path.realpath(each.upload_dir)), each.topic)
        for name, each in options.items()
    ]
    for number, (later, inner, topic) in enumerate(places):
        for earlier, outer, other_topic in places[:number]:
            if topic != other_topic:
                continue
            if inner == outer:
                raise ConfigError(
                    f"{later.heading}: {later.path} is sent to topic {topic} by [{SECTION} {earlier.name}] already",
                    hint="remove one of the two sections, or give one of them another topic_name",
                )
            for below, above, low, high in ((inner, outer, later, earlier), (outer, inner, earlier, later)):
                if Path(below).is_relative_to(above):
                    raise ConfigError(
                        f"{low.heading}: {low.path} lies in the folder of [{SECTION} {high.name}], and both send to "
                        f"topic {topic}: its files would be sent twice",
                        hint=f"give one of them another topic_name, or keep [{SECTION} {high.name}] alone and say "
                        "what is special below it in a [watch PATTERN] section",
                    )


def _allowed(section: str) -> Allowed:
    allowed = allowed_for((WatchOptions,), section)
    return replace(
        allowed,
        known={name: entry for name, entry in allowed.known.items() if name not in PROGRAM_WIDE},
        refused={**allowed.refused, **dict.fromkeys(PROGRAM_WIDE, _PROGRAM_WIDE), "upload_dir": _OTHER_NAME},
    )
