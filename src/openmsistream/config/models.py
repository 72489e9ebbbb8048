"""A program's whole configuration, and finding the file it comes from.

Owns the meaning of the sections and where ``--config NAME`` is looked for. It must not know what a
program does with them, nor read the environment by itself: the caller hands it in.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import platformdirs

from openmsistream.config.clients import (
    ConsumerConfig,
    ProducerConfig,
    WireFormat,
    consumer_config,
    producer_config,
    resolve_group_id,
)
from openmsistream.config.folders import WatchedFolder, folder_sections, refuse_twice
from openmsistream.config.ini import IniFile, Settings, read_ini
from openmsistream.config.librdkafka import consumer_defaults, producer_defaults
from openmsistream.config.options import CommonOptions, WatchOptions
from openmsistream.config.secrets import redacted
from openmsistream.config.sections import SECTION_MODELS, from_file, layered
from openmsistream.config.settling import SettleRules, WatchSections, watch_sections
from openmsistream.errors import ConfigError

__all__ = [
    "ConsumerConfig",
    "KafkaCryptoConfig",
    "ProducerConfig",
    "ProgramConfig",
    "Settings",
    "WireFormat",
    "consumer_defaults",
    "default_search",
    "load",
    "producer_defaults",
    "redacted",
    "resolve_group_id",
]

SUFFIX = ".config"
_OWN_FILES = Path(__file__).parent / "files"
_SECTIONS = ("broker", "producer", "consumer", "kafkacrypto", "s3", "heartbeat", "log", *SECTION_MODELS)
_FAMILIES = ("watch", "folder")  # sections whose name goes on behind this word
# Sections that other programs read, or that 0.9 had: nothing to warn about.
_OTHER_SECTIONS = frozenset({"osn", "DEFAULT"})


@dataclass(frozen=True, slots=True)
class KafkaCryptoConfig:
    """
    Where the keys for end-to-end encryption are: a node's name or the path of its own config file.

    At least one is given; the file counts when both are.
    """

    node_id: str | None = None
    config_file: str | None = None


@dataclass(frozen=True)
class ProgramConfig:
    """
    What one config file says. Every part is read and checked when it is first asked for.

    So an upload does not fail because a key that only ``[consumer]`` or ``[s3]`` uses names an
    environment variable that this computer does not have. ``check`` asks for every part at once.

    Attributes:
        path: The file, as it was found.
    """

    path: Path
    _ini: IniFile = field(repr=False)

    @cached_property
    def broker(self) -> Settings:
        """``[broker]`` as written, without ``node_id``."""
        return self._ini.section("broker").without("node_id")

    @cached_property
    def producer(self) -> ProducerConfig:
        """``[producer]`` over ``[broker]`` over our defaults."""
        return producer_config(self._ini)

    @cached_property
    def consumer(self) -> ConsumerConfig:
        """``[consumer]`` over ``[broker]`` over our defaults."""
        return consumer_config(self._ini)

    @cached_property
    def kafkacrypto(self) -> KafkaCryptoConfig | None:
        """``[kafkacrypto]``: present means that records are encrypted and decrypted."""
        if "kafkacrypto" not in self._ini.names():
            return None
        section = self._ini.section("kafkacrypto", own=True)
        node, file = section.get("node_id"), section.get("config_file")
        if not node and not file:
            raise ConfigError(
                f"{self.path} [kafkacrypto]: neither node_id nor config_file is given",
                hint="add node_id = NAME, or remove the section to work without encryption",
            )
        return KafkaCryptoConfig(node or None, file.removeprefix("file#") if file else None)

    @cached_property
    def s3(self) -> Settings:
        """``[s3]`` as written; a file of 0.9 calls it ``[osn]``."""
        return self._ini.section("s3" if "s3" in self._ini.names() else "osn", own=True)

    @cached_property
    def heartbeat(self) -> Settings:
        """``[heartbeat]`` as written."""
        return self._ini.section("heartbeat").without("node_id")

    @cached_property
    def log(self) -> Settings:
        """``[log]`` as written."""
        return self._ini.section("log").without("node_id")

    @cached_property
    def upload(self) -> Settings:
        """``[upload]`` as written: defaults for the options of the uploading programs."""
        return self._ini.section("upload", own=True)

    @cached_property
    def download(self) -> Settings:
        """``[download]`` as written: defaults for the options of the downloading programs."""
        return self._ini.section("download", own=True)

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """
        Sentences to tell the user once at start.

        A side that cannot be read gives none: it says so itself when it is used.
        """
        found = self._section_warnings()
        for side in ("producer", "consumer"):
            try:
                found += getattr(self, side).warnings
            except ConfigError:
                continue
        return tuple(dict.fromkeys(found))

    def option_defaults(self, model: type[CommonOptions]) -> dict[str, Any]:
        """
        What the file's ``[upload]`` or ``[download]`` says about the options of ``model``.

        Raises:
            ConfigError: An option or its value is wrong there.
        """
        return from_file(model, self._ini.section(model.SECTION, own=True))

    @cached_property
    def folders(self) -> Mapping[str, WatchedFolder]:
        """
        Every ``[folder NAME]`` by its name, in the file's order; empty when there is none.

        Raises:
            ConfigError: Something is wrong in one of them.
        """
        return MappingProxyType(folder_sections(self._ini))

    def folder_options(self, name: str, typed: Mapping[str, Any]) -> WatchOptions:
        """
        The options to watch one of ``folders`` with.

        Args:
            name: Its name.
            typed: Options that win over what the file says, by name.

        Raises:
            ConfigError: The folder is not there, or an option is wrong.
        """
        return self.folders[name].watch_options(self.option_defaults(WatchOptions), typed)

    def every_folder(self, typed: Mapping[str, Any]) -> dict[str, WatchOptions]:
        """
        The options to watch all ``folders`` with, by name.

        Raises:
            ConfigError: As ``folder_options``, or files would be sent to one topic twice.
        """
        options = {name: self.folder_options(name, typed) for name in self.folders}
        refuse_twice(self.folders, options)
        return options

    def folder_defaults(self, folder: Path) -> dict[str, Any]:
        """
        What the file says about the options of watching this one folder.

        That is ``[upload]``, and over it the ``[folder NAME]`` section whose path it is, if there is one.

        Raises:
            ConfigError: Several sections have this path, or something is wrong in the file.
        """
        here = Path(os.path.realpath(folder))
        same = [each for each in self.folders.values() if Path(os.path.realpath(each.path)) == here]
        if len(same) > 1:
            raise ConfigError(
                f"{folder}: is the path of {same[0].heading} and of [folder {same[1].name}]",
                hint="leave the folder out on the command line to watch what all sections name",
            )
        return layered(self.option_defaults(WatchOptions), *(each.options for each in same))

    def settle_rules(self, options: WatchOptions) -> SettleRules:
        """
        When which file of a folder is complete: ``[watch]``, the options, and every ``[watch PATTERN]``.

        Args:
            options: What the folder is watched with.

        Raises:
            ConfigError: Something is wrong in one of the sections.
        """
        return self._watch.rules(options)

    @cached_property
    def _watch(self) -> WatchSections:
        return watch_sections(self._ini)

    def origin(self, section: str, key: str) -> str:
        """Where a value comes from, e.g. ``xrd.config [producer] batch.size (line 12)``."""
        place = self._ini.place(section, key)
        if place is None and section in {"producer", "consumer"}:
            place = self._ini.place("broker", key)
        if place is None and key in {"producer": producer_defaults(), "consumer": consumer_defaults()}.get(section, {}):
            return "OpenMSIStream's default"
        return place or f"{self.path} [{section}] {key} (not set)"

    def check(self) -> None:
        """
        Read every part of the file now.

        Raises:
            ConfigError: The first thing that is wrong.
        """
        for part in ("broker", "producer", "consumer", "kafkacrypto", "s3", "heartbeat", "log"):
            getattr(self, part)
        for models in SECTION_MODELS.values():
            for model in models:
                self.option_defaults(model)
        watch_sections(self._ini)
        folder_sections(self._ini)

    def _section_warnings(self) -> list[str]:
        found = []
        for name in self._ini.names():
            word, *rest = name.split(maxsplit=1) or ("",)
            if name in _SECTIONS or name in _OTHER_SECTIONS or word in _FAMILIES:
                continue
            candidates = _FAMILIES if rest else (*_SECTIONS, *_FAMILIES)
            near = difflib.get_close_matches(word.lower(), candidates, n=1, cutoff=0.8)
            if near:
                meant = " ".join((near[0], *rest))
                found.append(f"{self.path} [{name}] is not read: the section is called [{meant}]")
        return found


def default_search(env: Mapping[str, str]) -> list[Path]:
    """
    The folders in which a config file is looked for by its name alone, in this order.

    ``$OPENMSISTREAM_CONFIG_FILE_DIR`` when it is set, the user's own config folder, and the folder of
    the file ``test.config`` that comes with this package.
    """
    named = env.get("OPENMSISTREAM_CONFIG_FILE_DIR", "")
    own = platformdirs.user_config_path("openmsistream", appauthor=False)
    return [*([Path(named)] if named else []), own, _OWN_FILES]


def load(name_or_path: str | Path, *, env: Mapping[str, str], search: Sequence[Path]) -> ProgramConfig:
    """
    The configuration in a file.

    Args:
        name_or_path: A path, or a name to look for; a name without "." gets ".config" appended.
        env: Where ``$NAME`` in values is looked up.
        search: The folders to look in after the name was tried as a path (see ``default_search``).

    Raises:
        ConfigError: There is no such file (the error lists where it was looked for), or it is not an
            INI file in UTF-8. What its values should be is checked when they are asked for.
    """
    path = _found(str(name_or_path), search)
    return ProgramConfig(path, read_ini(path, env))


def _found(name: str, search: Sequence[Path]) -> Path:
    given = Path(name)
    wanted = given if "." in given.name else given.with_name(given.name + SUFFIX) if given.name else given
    places = [wanted] if wanted.is_absolute() else [wanted, *(folder / wanted for folder in search)]
    for place in places:
        if _is_file(place):
            return place
    if given.is_dir():
        raise ConfigError(f"config file {name}: is a folder", hint="name the file in it, e.g. lab.config")
    known = sorted({file.stem for folder in search if folder.is_dir() for file in folder.glob("*" + SUFFIX)})
    near = difflib.get_close_matches(wanted.stem, known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ConfigError(
        f"config file {name}: not found; looked for " + ", ".join(map(str, places)),
        hint=hint + "give the path of the file, or put it into one of these folders",
    )


def _is_file(place: Path) -> bool:
    try:
        return place.is_file()
    except OSError as error:
        raise ConfigError(
            f"config file {place}: {error.strerror or error}", hint="check the permissions of its folder"
        ) from error
