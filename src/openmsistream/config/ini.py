"""Read one INI file: its sections as immutable settings that know where each value stands.

Owns the syntax (that of OpenMSIStream 1.x: Python's configparser with ``=`` and ``:``, ``%%`` for one
``%``, ``$NAME`` at the start of a value for an environment variable) and every error about it. It must
not know what any section or key means.
"""

from __future__ import annotations

import codecs
import configparser
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from openmsistream.config.secrets import MASK, is_secret, masked
from openmsistream.errors import ConfigError

# The same names as os.path.expandvars takes on Linux and macOS: $NAME and ${NAME}.
_VARIABLE = re.compile(r"\$(?:(\w+)|\{([^}]+)\})", re.ASCII)
_OTHER_KEY = re.compile(r"%\(([^)]+)\)s")
# Only such a name is repeated in an error about a secret: "$ecret1" may be the password itself.
_USUAL_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")
_DEFAULT_ORIGIN = "OpenMSIStream's default"


class Settings(Mapping[str, str]):
    """
    Keys and values, immutable; prints itself with secrets masked.

    Args:
        values: What the keys are set to.
        places: Where keys stand in a file, for errors; keys without a place are defaults of ours.
        hidden: Keys to mask although their names look harmless.
    """

    __slots__ = ("_hidden", "_places", "_values")

    def __init__(
        self,
        values: Mapping[str, str],
        *,
        places: Mapping[str, str] | None = None,
        hidden: Iterable[str] = (),
    ) -> None:
        self._values = dict(values)
        self._places = dict(places or {})
        self._hidden = frozenset(hidden) | {key for key in self._values if is_secret(key)}

    def __getitem__(self, key: str) -> str:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Settings({self.redacted()!r})"

    def over(self, below: Settings) -> Settings:
        """Both together; where both have a key, this one's value and place count."""
        places = {**below._places, **self._places}
        for key in below._values.keys() - self._values.keys():
            # The place of a key that was left out here must not stand for the value from below.
            places.pop(key, None)
            if key in below._places:
                places[key] = below._places[key]
        return Settings(
            {**below._values, **self._values},
            places=places,
            # A key hidden below stays hidden: masking too much is the safe mistake.
            hidden=self._hidden | below._hidden,
        )

    def without(self, *keys: str) -> Settings:
        """The rest; the places of the keys left out are still known."""
        rest = {key: value for key, value in self._values.items() if key not in keys}
        return Settings(rest, places=self._places, hidden=self._hidden)

    def replaced(self, changes: Mapping[str, str]) -> Settings:
        """The same settings at the same places with some values changed."""
        return Settings({**self._values, **changes}, places=self._places, hidden=self._hidden)

    def origin(self, key: str) -> str:
        """Where the value was set, e.g. ``xrd.config [producer] batch.size (line 12)``."""
        return self._places.get(key, _DEFAULT_ORIGIN)

    def shown(self, key: str) -> str:
        """The value in quotes, as it may stand in an error: masked when it is a secret."""
        return repr(self._safe(key)) if key in self else "nothing"

    def redacted(self) -> dict[str, str]:
        """A copy that may be logged: secrets are replaced by ``***``."""
        return {key: self._safe(key) for key in self._values}

    def mask(self, text: str) -> str:
        """The text of somebody else's error with every secret value of these settings masked."""
        secrets = {self._values[key] for key in self._hidden & self._values.keys()} - {""}
        for secret in sorted(secrets, key=len, reverse=True):
            text = text.replace(secret, MASK)
        return text

    def _safe(self, key: str) -> str:
        # A secret may have come into another value through %(other key)s.
        return MASK if key in self._hidden else self.mask(masked(key, self._values[key]))


class IniFile:
    """
    One parsed file. Its values are expanded when a section is asked for, so that a section nobody
    uses on this computer may name environment variables that are not set here.
    """

    def __init__(
        self,
        path: Path,
        parser: configparser.ConfigParser,
        lines: Mapping[tuple[str, str], int],
        env: Mapping[str, str],
    ) -> None:
        self.path = path
        self._parser = parser
        self._lines = dict(lines)
        # Only the variables that the file names: the rest of the environment is none of our business.
        named = {name for value in _raw_values(parser) for name in _variables(value)}
        self._env = {name: env[name] for name in named if name in env}

    def __repr__(self) -> str:
        return f"IniFile({str(self.path)!r})"

    def names(self) -> list[str]:
        """The names of the sections, in the file's order."""
        return self._parser.sections()

    def place(self, section: str, key: str) -> str | None:
        """Where a key stands, e.g. ``xrd.config [producer] batch.size (line 12)``; None: nowhere."""
        for home in (section, self._parser.default_section):
            if (home, key) in self._lines:
                return f"{self.path} [{home}] {key} (line {self._lines[home, key]})"
        return None

    def family(self, first_word: str) -> list[tuple[str, str]]:
        """
        The sections whose name begins with this word, in the file's order: name, and what follows the word.

        Raises:
            ConfigError: Two of them differ in spaces alone.
        """
        found: dict[str, str] = {}
        for name in self.names():
            word, *rest = name.split(maxsplit=1) or ("",)
            if word != first_word:
                continue
            text = " ".join("".join(rest).split())
            twin = next((other for other, known in found.items() if known == text), None)
            if twin is not None:
                raise ConfigError(
                    f"{self.heading(name)}: the section is already given as {self.heading(twin)}",
                    hint="put all keys of a section under one heading",
                )
            found[name] = text
        return list(found.items())

    def heading(self, section: str) -> str:
        """Where a section begins, e.g. ``xrd.config [watch *.raw] (line 12)``."""
        return f"{self.path} [{section}] (line {self._lines[section, '']})"

    def section(self, name: str, *, own: bool = False) -> Settings:
        """
        The settings of a section, expanded; empty when the file has no such section.

        Args:
            name: The section's name without brackets, as written.
            own: Leave out what only ``[DEFAULT]`` says.

        Raises:
            ConfigError: A lone ``%``, a reference to a key that is not there, or an environment
                variable that is not set. The error names file, section, key and line.
        """
        values: dict[str, str] = {}
        places: dict[str, str] = {}
        hidden: set[str] = set()
        for key in self._parser.options(name) if self._parser.has_section(name) else ():
            if own and (name, key) not in self._lines:
                continue
            place = self.place(name, key) or f"{self.path} [{name}] {key}"
            raw = self._parser.get(name, key, raw=True)
            value = self._interpolated(name, key, place)
            if any(map(is_secret, (key, *_variables(value), *_OTHER_KEY.findall(raw)))):
                hidden.add(key)
            values[key] = self._expanded(value, place, key in hidden)
            places[key] = place
        return Settings(values, places=places, hidden=hidden)

    def _interpolated(self, section: str, key: str, place: str) -> str:
        try:
            return self._parser.get(section, key)
        except configparser.InterpolationMissingOptionError as error:
            what = "%(...)s" if is_secret(key) else f"%({error.reference})s"
            problem = f"{what} refers to a key that is not in the section"
        except configparser.InterpolationDepthError:
            problem = "the value refers to itself through %(...)s"
        except configparser.InterpolationError:
            problem = "the value contains a lone % sign"
        # Raised out here so that configparser's own text, which repeats the value, is not chained.
        raise ConfigError(f"{place}: {problem}", hint="write %% where the value is to contain one % sign")

    def _expanded(self, value: str, place: str, hidden: bool) -> str:
        if not value.startswith("$"):
            return value
        names = _variables(value)
        if not names:
            raise ConfigError(
                f"{place}: the value begins with $ but names no environment variable",
                hint="write $NAME; a value that really begins with $ can be kept in an environment variable",
            )
        for name in names:
            if name in self._env:
                continue
            if hidden and not _USUAL_VARIABLE.fullmatch(name):
                raise ConfigError(
                    f"{place}: the environment variable that the value names after $ is not set",
                    hint="export that variable; a secret that really begins with $ can be kept in one",
                )
            raise ConfigError(
                f"{place}: environment variable {name} is not set",
                hint=f"export {name}=...   (or write the value in the file)",
            )
        return _VARIABLE.sub(lambda match: self._env[match[1] or match[2]], value)


def read_ini(path: Path, env: Mapping[str, str]) -> IniFile:
    """
    Parse a file as OpenMSIStream 1.x does.

    Args:
        path: An existing file: UTF-8, with or without a byte order mark, any line ends.
        env: Where ``$NAME`` is looked up.

    Raises:
        ConfigError: The file cannot be read, is not UTF-8, or is not an INI file; with the line.

    Source: Python's configparser documentation (``strict``, basic interpolation).
    """
    text = _text(path)
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    found = _line_numbers(lines)
    parser = configparser.ConfigParser()
    try:
        parser.read_file((line + "\n" for line in lines), source=str(path))
    except configparser.Error as error:
        problem, hint = _syntax_problem(error, found)
    else:
        return IniFile(path, parser, found, env)
    # Raised out here: configparser's errors repeat whole lines, which may hold a password.
    raise ConfigError(f"{path} {problem}", hint=hint)


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read: {error.strerror or error}", hint="check the file's permissions"
        ) from error
    data = data.removeprefix(codecs.BOM_UTF8)  # Windows Notepad writes it
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        # Counted in the bytes: they cannot be shown, and the rest of the line may be a secret.
        line = data.count(b"\n", 0, error.start) + 1
        byte = data[error.start]
    raise ConfigError(
        f"{path} line {line}: not UTF-8 text (byte 0x{byte:02x})",
        hint='save the file with the encoding "UTF-8"',
    )


def _line_numbers(lines: Iterable[str]) -> dict[tuple[str, str], int]:
    """The line, from 1, of the first mention of each (section, key); a section itself has key ""."""
    found: dict[tuple[str, str], int] = {}
    section, key, indent = "", "", 0
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text[0] in "#;":
            continue
        depth = len(line) - len(line.lstrip())
        if section and key and depth > indent:
            continue  # the value of the key above goes on here
        indent = depth
        header = configparser.ConfigParser.SECTCRE.match(text)
        if header:
            section, key = header["header"], ""
        else:
            key = re.split("[=:]", text, maxsplit=1)[0].strip().lower()
        found.setdefault((section, key), number)
    return found


def _syntax_problem(error: configparser.Error, found: Mapping[tuple[str, str], int]) -> tuple[str, str]:
    """What is wrong, beginning with the place, and what to try. Never repeats a value."""
    if isinstance(error, configparser.DuplicateOptionError):
        first = found.get((error.section, error.option))
        place = f"[{error.section}] {error.option} (line {error.lineno})"
        return (
            f"{place}: the key is already given in line {first}",
            "keep one of the two lines",
        )
    if isinstance(error, configparser.DuplicateSectionError):
        first = found.get((error.section, ""))
        return (
            f"line {error.lineno}: section [{error.section}] is already given in line {first}",
            "put all keys of a section under one heading",
        )
    if isinstance(error, configparser.MissingSectionHeaderError):
        return (
            f"line {error.lineno}: stands before the first [section]",
            "begin the file with a section heading such as [broker]",
        )
    # ParsingError: one (line, text) for each line that is nothing we know, an empty key included.
    unknown: list[tuple[int, str]] = getattr(error, "errors", [])
    number = unknown[0][0] if unknown else getattr(error, "lineno", 1)
    return (
        f"line {number}: neither a [section], a key = value line nor a comment",
        "write key = value; begin a comment with #",
    )


def _raw_values(parser: configparser.ConfigParser) -> Iterator[str]:
    for name, section in parser.items():
        for key in section:
            yield parser.get(name, key, raw=True)


def _variables(value: str) -> list[str]:
    return [match[1] or match[2] for match in _VARIABLE.finditer(value) if match[1] or match[2]]
