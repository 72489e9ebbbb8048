"""Comparing places file by file: which of them lacks one, has one too many, or has another content.

Knows places by the shape ``Listing``, of which a folder and a topic are two; a bucket can be another. Names wait in a
temporary table, so that memory stays flat however many there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from openmsistream.adapters.sqlite.scratch import NameTable
from openmsistream.core.chunk import HashName
from openmsistream.core.comparing import Finding, Item, Kind
from openmsistream.errors import SourceError

Progress = Callable[[str, int, int | None, int], None]
"""Told what is done (reading, listing, comparing), how many files or records of how many, and bytes."""


class Listing(Protocol):
    """One place that holds files. Only ``digest`` may read them."""

    @property
    def place(self) -> str:
        """What it is called: source, topic, destination."""
        ...

    def items(self) -> Iterator[Item]:
        """Every file there, each name once, in any order; SourceError or UnavailableError when there is no telling."""
        ...

    def digest(self, item: Item, hash_name: HashName, progress: Callable[[int], None]) -> bytes | None:
        """Its digest by that function; None when this place cannot tell it. SourceError when it cannot be read."""
        ...

    def unchanged(self, item: Item) -> bool:
        """True when it is still what ``items`` said."""
        ...

    def has(self, name: str) -> bool:
        """True when a file of that name is there now."""
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...


@dataclass(slots=True)
class Summary:
    """
    What a comparison found.

    Attributes:
        names: Different names there are, in all places together.
        equal: Names that all places have, with equal content.
        found: How many findings of each kind.
        files, total_bytes: By place: what it holds that was compared.
        left_out: By place: files that the selection leaves out.
        compared_bytes: So many bytes were read to compare contents.
        sizes_only: Equal names whose content was not compared: nobody asked for it, or no place could tell.
        notes: What else a user should know.
    """

    names: int = 0
    equal: int = 0
    found: Counter[Kind] = field(default_factory=Counter)
    files: Counter[str] = field(default_factory=Counter)
    total_bytes: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    compared_bytes: int = 0
    sizes_only: int = 0
    notes: list[str] = field(default_factory=list)


class Comparison:
    """
    Compares two or more places, the first of which says what there should be.

    Args:
        listings: The places, in the order in which files travel.
        accepts: Which names take part.
        tell: Called with each finding, in the order of the names' bytes.
        progress: Told how far it is.
        contents: Compare contents too; False: names and sizes only.
        extras: Tell of files that the first place does not have.
    """

    def __init__(
        self,
        listings: Sequence[Listing],
        accepts: Callable[[str], bool],
        tell: Callable[[Finding], None],
        progress: Progress,
        *,
        contents: bool = True,
        extras: bool = True,
    ) -> None:
        self._listings, self._accepts, self._tell, self._progress = listings, accepts, tell, progress
        self._contents, self._extras = contents, extras
        self._bad = False
        self.summary = Summary()

    def run(self) -> Summary:
        """
        List all places, then compare name by name.

        Raises:
            SourceError: A folder cannot be listed.
            UnavailableError, DeliveryError: A topic cannot be read.
            StorageError: The temporary folder is full.
        """
        table = NameTable()
        try:
            for number, listing in enumerate(self._listings):
                self._list(number, listing, table)
            for name, found in table.by_name():
                self._judge(name, found)
                self._progress("comparing", self.summary.names, None, self.summary.compared_bytes)
        finally:
            table.close()
        return self.summary

    def _list(self, number: int, listing: Listing, table: NameTable) -> None:
        summary, place = self.summary, listing.place
        summary.files[place] += 0  # a place with nothing in it is told of too
        for item in listing.items():
            if item.problem is not Kind.UNREADABLE and not self._accepts(item.name):
                summary.left_out[place] += 1
                continue
            try:
                table.add(number, item)
            except SourceError as error:
                self._find(Kind.UNREADABLE, listing, item.name, error.message)
                continue
            summary.files[place] += 1
            summary.total_bytes[place] += item.size
            self._progress(f"listing {place}", summary.files[place], None, 0)

    def _judge(self, name: str, found: dict[int, Item]) -> None:
        self.summary.names += 1
        self._bad = False
        usable: dict[int, Item] = {}
        for number, listing in enumerate(self._listings):
            item = found.get(number)
            if item is not None and item.problem is not None:
                self._find(item.problem, listing, name, item.reason)
            elif item is not None:
                usable[number] = item
                if 0 not in found and self._extras:
                    self._extra(listing, item)
            elif usable:  # what is only in part on a topic can be nowhere behind it
                self._missing(listing, name, self._listings[min(usable)].place)
        compared = self._compare(usable) if len(usable) > 1 else False
        if not self._bad and len(usable) == len(self._listings):
            self.summary.equal += 1
            self.summary.sizes_only += not compared

    def _missing(self, listing: Listing, name: str, where: str) -> None:
        if listing.has(name):
            self._find(Kind.CHANGING, listing, name, "it came while the places were compared")
        else:
            self._find(Kind.MISSING, listing, name, f"{where} has it")

    def _extra(self, listing: Listing, item: Item) -> None:
        first = self._listings[0]
        if first.has(item.name):
            self._find(Kind.CHANGING, first, item.name, "it came while the places were compared")
        elif not listing.unchanged(item):
            self._find(Kind.CHANGING, listing, item.name, "it changed while the places were compared")
        else:
            self._find(Kind.EXTRA, listing, item.name, f"{first.place} does not have it ({item.size:,} bytes)")

    def _compare(self, usable: dict[int, Item]) -> bool:
        """Compare sizes, then contents; True when the contents were compared."""
        (first, reference), *others = usable.items()
        same_size = []
        for number, item in others:
            if item.size == reference.size:
                same_size.append((number, item))
            else:
                there = f"{item.size:,} bytes, {self._listings[first].place} has {reference.size:,}"
                self._different((first, reference), (number, item), there)
        if not self._contents or not same_size:
            return False
        known = [item.hash_name for item in (reference, *(item for _, item in same_size)) if item.digest]
        hash_name = next((found for found in known if found), HashName.BLAKE3)
        expected = self._digest(first, reference, hash_name)
        compared = expected is not None
        for number, item in same_size if compared else ():
            digest = self._digest(number, item, hash_name)
            compared = compared and digest is not None
            if expected is not None and digest is not None and digest != expected:
                there = f"{hash_name.value} {digest.hex()}, {self._listings[first].place} has {expected.hex()}"
                self._different((first, reference), (number, item), there)
        return compared

    def _different(self, reference: tuple[int, Item], other: tuple[int, Item], there: str) -> None:
        for number, item in (reference, other):
            if not self._listings[number].unchanged(item):
                reason = "it changed while the places were compared"
                self._find(Kind.CHANGING, self._listings[number], item.name, reason)
                return
        self._find(Kind.DIFFERENT, self._listings[other[0]], other[1].name, there)

    def _digest(self, number: int, item: Item, hash_name: HashName) -> bytes | None:
        if item.digest is not None and item.hash_name is hash_name:
            return item.digest
        listing = self._listings[number]
        try:
            return listing.digest(item, hash_name, self._read)
        except SourceError as error:
            if listing.unchanged(item):
                self._find(Kind.UNREADABLE, listing, item.name, error.message)
            else:
                self._find(Kind.CHANGING, listing, item.name, "it changed or went while the places were compared")
            return None

    def _read(self, count: int) -> None:
        self.summary.compared_bytes += count
        self._progress("comparing", self.summary.names, None, self.summary.compared_bytes)

    def _find(self, kind: Kind, listing: Listing, name: str, reason: str) -> None:
        self._bad = True
        self.summary.found[kind] += 1
        self._tell(Finding(kind, listing.place, name, reason))
