"""The files that keys stand for: the template of ``naming.object_key``, read backwards.

Pure text. This module never sees a store; that a key of this template is no proof of who wrote the object, is for
others to know.
"""

from __future__ import annotations

import re
import string
from urllib.parse import unquote_to_bytes

from openmsistream.adapters.s3.naming import PATH, Found, object_key
from openmsistream.core.paths import from_wire_bytes
from openmsistream.errors import ProtocolError

_FIELDS = {"path": ".+", "folder": ".+", "name": "[^/]+"}
_SLASHES = re.compile("/{2,}")


class Keys:
    """
    The keys that a template makes of the paths of one topic.

    Args:
        template: As of ``object_key``.
        topic: The topic.

    Attributes:
        prefix: Every key begins with it.
        reversible: True when each key tells its path: the template has ``{path}``, or ``{folder}/{name}``, once. Any
            other may give several paths one key, and then what the object says of its path decides.
    """

    def __init__(self, template: str, topic: str) -> None:
        self._template, self._topic = template, topic
        pieces = _pieces(template, topic)
        literals = [text for text, is_field in pieces if not is_field]
        self.reversible = [text for text, is_field in pieces if is_field] == ["path"]
        self.prefix = "" if pieces[0][1] else literals[0].lstrip("/")
        self._suffix = "" if pieces[-1][1] else literals[-1]
        self._patterns = [_pattern(pieces, lazy=lazy, at_top=top) for lazy in (False, True) for top in (False, True)]

    def path(self, key: str, found: Found | None = None) -> str | None:
        """
        The path of the file that has this key; None when a file of this topic cannot have it.

        Args:
            key: The key.
            found: The object, where the template is not ``reversible``: its path is taken when it fits the key. The
                key itself stands for a file when there is no telling which one it is.
        """
        if self.reversible:
            if not key.startswith(self.prefix) or not key.endswith(self._suffix):
                return None
            return key[len(self.prefix) : len(key) - len(self._suffix)] or None
        said = "" if found is None else found.said.get(PATH, "")
        if said and self._makes(path := from_wire_bytes(unquote_to_bytes(said)), key):
            return path
        matches = [match for pattern in self._patterns if (match := pattern.fullmatch(key)) is not None]
        paths = {path for match in matches if self._makes(path := _joined(match.groupdict()), key)}
        if not matches:
            return None
        return paths.pop() if len(paths) == 1 else key

    def key(self, path: str) -> str:
        """The key of a path; ProtocolError when it can have none."""
        return object_key(self._template, self._topic, path)

    def _makes(self, path: str, key: str) -> bool:
        try:
            return self.key(path) == key
        except ProtocolError:
            return False


def _pieces(template: str, topic: str) -> list[tuple[str, bool]]:
    """The template as literal text and names of fields, told apart by the flag; the topic counts as text."""
    pieces: list[tuple[str, bool]] = []
    for text, name, _, _ in string.Formatter().parse(template):
        for piece in [(text, False), *([] if name is None else [(topic, False) if name == "topic" else (name, True)])]:
            if piece[0] and pieces and not (piece[1] or pieces[-1][1]):
                pieces[-1] = (pieces[-1][0] + piece[0], False)
            elif piece[0]:
                pieces.append(piece)
    pieces = [(text if is_field else _SLASHES.sub("/", text), is_field) for text, is_field in pieces]
    whole = [("folder", True), ("/", False), ("name", True)]
    for at in range(len(pieces) - 2):
        if pieces[at : at + 3] == whole and (at == 0 or pieces[at - 1][0].endswith("/")):
            return [*pieces[:at], ("path", True), *pieces[at + 3 :]]
    return pieces


def _pattern(pieces: list[tuple[str, bool]], *, lazy: bool, at_top: bool) -> re.Pattern[str]:
    """What matches the keys: with folders as short or as long as can be, or of files that are in no folder."""
    text, seen = "", set[str]()
    for piece, is_field in pieces:
        if not is_field:
            text += re.escape(piece)
        elif piece in seen:
            text += f"(?P={piece})"
        elif piece == "folder" and at_top:
            text += "(?P<folder>)"
            seen.add(piece)
        else:
            text += f"(?P<{piece}>{_FIELDS[piece]}{'?' if lazy and piece != 'name' else ''})"
            seen.add(piece)
    if at_top:
        # Slashes on both sides of an empty folder become one.
        text = re.sub(r"/\(\?P<folder>\)/", "(?P<folder>)/", text).removeprefix("/")
        text = re.sub(r"^\(\?P<folder>\)/", "(?P<folder>)", text)
    return re.compile(text.removeprefix("/"), re.DOTALL)


def _joined(fields: dict[str, str]) -> str:
    if "path" in fields:
        return fields["path"]
    return "/".join(filter(None, (fields.get("folder", ""), fields["name"])))
