"""``[watch]`` and ``[watch PATTERN]``: which settle rule holds for which file.

Owns how these sections, ``[upload]`` and typed options become rules. It must not know how a rule is applied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from openmsistream.config import kinds
from openmsistream.config.ini import IniFile
from openmsistream.config.options import WatchOptions, options_of
from openmsistream.config.sections import Allowed, Refusal, allowed_for, read_keys
from openmsistream.core.patterns import Patterns, only_takes_back
from openmsistream.core.settle import SettleMode, SettleRule
from openmsistream.errors import ConfigError

SECTION = "watch"
# Option and the field of a rule that it sets.
_FIELDS = {
    "settle": "mode",
    "watchdog_lag_time": "quiet_seconds",
    "closed_lag_time": "closed_seconds",
    "max_wait": "max_wait_seconds",
    "marker": "marker",
    "temporary_names": "temporary",
    "check_writers": "check_writers",
}
_NOT_HERE = Refusal("does not say when a file is complete", "put the line into [upload] or a [folder NAME] section")


@dataclass(frozen=True, slots=True)
class SettleRules:
    """
    The settle rule of every file; call it with a relative path.

    Attributes:
        base: The rule of files that no pattern matches.
        special: Patterns and their rules; the first list that matches a path decides.
    """

    base: SettleRule
    special: tuple[tuple[Patterns, SettleRule], ...] = ()

    def __call__(self, relative_path: str) -> SettleRule:
        """Return the rule of the file at this relative POSIX path."""
        for patterns, rule in self.special:
            if patterns.match(relative_path) is not None:
                return rule
        return self.base

    @property
    def all(self) -> tuple[SettleRule, ...]:
        """Every rule there is, the base first."""
        return (self.base, *(rule for _, rule in self.special))


@dataclass(frozen=True, slots=True)
class WatchSections:
    """What the sections say, checked: the base's options, and those of each list of patterns in the file's order."""

    base: Mapping[str, Any]
    special: tuple[tuple[Patterns, Mapping[str, Any]], ...]

    def rules(self, options: WatchOptions) -> SettleRules:
        """
        The rules of a folder that is watched with these options.

        The base is what ``[watch]`` says, and over it what the options were given. Python callers give an option
        by a value that is not its default. A pattern's section wins over both, and takes from them what it does
        not say.
        """
        base = {**self.base, **_given(options)}
        return SettleRules(_rule(base), tuple((patterns, _rule({**base, **own})) for patterns, own in self.special))


def watch_sections(ini: IniFile) -> WatchSections:
    """
    Read ``[watch]`` and every ``[watch PATTERN]``.

    Raises:
        ConfigError: A key, a value or a pattern is wrong; names file, section, line, value and what is allowed.
    """
    base: Mapping[str, Any] = {}
    special: list[tuple[Patterns, Mapping[str, Any]]] = []
    for name, rest in ini.family(SECTION):
        own = read_keys(ini.section(name, own=True), _allowed(name))
        if rest:
            special.append((_patterns(ini.heading(name), rest), own))
        else:
            base = own
    return WatchSections(base, tuple(special))


def _allowed(section: str) -> Allowed:
    upload = allowed_for((WatchOptions,), section)
    elsewhere = {name: _NOT_HERE for name in upload.known if name not in _FIELDS}
    return Allowed(section, {name: upload.known[name] for name in _FIELDS}, {**upload.refused, **elsewhere})


def _patterns(heading: str, text: str) -> Patterns:
    try:
        lines = kinds.Patterns().accept(text)
    except ValueError as error:
        raise ConfigError(f"{heading}: {text!r} {error}") from None
    if only_takes_back(lines):
        raise ConfigError(
            f"{heading}: no file matches {text!r}, since ! only takes back what a pattern before it matches",
            hint=f"write [watch *, {text}] for all files but these",
        )
    return Patterns(lines)


def _given(options: WatchOptions) -> dict[str, Any]:
    items = options_of(WatchOptions)
    values = {name: getattr(options, name) for name in _FIELDS}
    return {name: v for name, v in values.items() if name in options.given or v != items[name][0].default}


def _rule(stated: Mapping[str, Any]) -> SettleRule:
    # An option that was set to nothing ("marker =") is as good as not set.
    values = {_FIELDS[name]: value for name, value in stated.items() if value is not None}
    mode = values["mode"] = SettleMode(values.get("mode", "auto"))
    if "max_wait_seconds" in values:
        values["max_wait_seconds"] = values["max_wait_seconds"] or None  # 0 is how an option says "never"
    elif mode is SettleMode.MARKER:
        # Who waits for a marker was told by the instrument when a file is complete: nothing else is asked.
        values["max_wait_seconds"] = None
    return SettleRule(**values)
