"""Makes ``parts.lock`` anew: for maintainers, when the version of Apache Kafka changes.

Resolves what Maven Central says the broker needs, fetches it into a temporary folder and prints the
lines. Knows nothing about running a broker, and nothing at run time needs it.
Run it as ``python -m openmsistream.local.relock > src/openmsistream/local/parts.lock``.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from openmsistream.local.parts import ROOTS, maven_context, sha256_of

HEADER = """\
# What the local broker is made of: sha256 and Maven coordinate of every jar, one a line.
# Made by `python -m openmsistream.local.relock`; checked at every start (local/parts.py)."""


def lock_lines(repository: Path) -> list[str]:
    """
    Return one line a jar, sorted by coordinate, with the hashes of what Maven Central serves now.

    Args:
        repository: An empty folder; the jars are left there (45 MB).
    """
    context = maven_context(repository)
    roots = [context.create_dependency(root) for root in ROOTS]
    resolved, transitive = context.resolver.resolve(roots)
    needed = [*resolved, *(one for one in transitive if one.scope in ("compile", "runtime"))]
    rows = {
        f"{one.artifact.groupId}:{one.artifact.artifactId}:{one.artifact.version}": sha256_of(one.artifact.resolve())
        for one in needed
    }
    return [f"{sha256}  {coordinate}" for coordinate, sha256 in sorted(rows.items())]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print("\n".join([HEADER, *lock_lines(Path(folder))]))
