"""``openmsistream local``: start, stop and look at a real Kafka broker, and an S3 object store, on this computer.

Owns the words and options of these commands. It must not know how either is fetched, configured or run.
Imports stand inside the functions, so that ``openmsistream --help`` answers at once.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openmsistream.local.store import LocalStore

USUAL_PORT = 9092
USUAL_TOPIC = "files"
USUAL_S3_PORT = 8333
USUAL_BUCKET = "files"

_START_HELP = """\
Start a real Apache Kafka broker on this computer, leave it running, and say what to do next.

The first start fetches Apache Kafka (45 MB) once; after that no network is needed. Only programs on this
computer can reach the broker. Topics and files on them are kept when it is stopped. With --s3 an S3 object
store (SeaweedFS) runs beside it, in the same way; its keys are made for this computer alone.
"""
_START_EXAMPLES = """\
examples:
  1. Start it, with a topic called files:
     openmsistream local start
  2. With two topics of four partitions each:
     openmsistream local start --topic xrd microscope --partitions 4
  3. A second one, for trying things out:
     openmsistream local start --folder trial-broker --port 9192
  4. With an S3 object store beside it, which has a bucket called scans:
     openmsistream local start --s3 --bucket scans
"""
_STATUS_EXAMPLES = """\
exit code: 0 when the broker runs, and the object store too if it was started; else 1

examples:
  1. See topics and how much is on them:
     openmsistream local status
  2. The same for a script:
     openmsistream local status --json
"""
_STOP_EXAMPLES = """\
examples:
  1. Stop it; what is on its topics is kept:
     openmsistream local stop
  2. Stop the one in another folder:
     openmsistream local stop --folder trial-broker
"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """
    Add ``local start``, ``local stop`` and ``local status`` to a program's sub-commands.

    Each sets ``run`` on the namespace: a function of the namespace that returns the exit code.
    """
    local = subparsers.add_parser(
        "local",
        help="a real Kafka broker, and an S3 store, on this computer, for trying things out",
        description="A real Kafka broker on this computer, and an S3 object store if you want one:"
        " start them, stop them, see what is on them.",
    )
    commands = local.add_subparsers(title="commands", metavar="COMMAND", required=True)

    begin = _command(commands, "start", _start, "start it and say what to do next", _START_EXAMPLES)
    begin.description = _START_HELP
    begin.add_argument(
        "--port",
        type=int,
        metavar="N",
        help=f"where it listens, on 127.0.0.1 (default: as last time, else {USUAL_PORT} if free; 0: any free port)",
    )
    begin.add_argument(
        "--topic",
        nargs="+",
        action="extend",
        metavar="NAME",
        help=f"topics to make when they are not there (default: {USUAL_TOPIC} on the first start)",
    )
    begin.add_argument("--partitions", type=int, default=1, metavar="N", help="for topics that are made (default: 1)")

    begin.add_argument("--s3", action="store_true", help="start an S3 object store too")
    begin.add_argument(
        "--s3-port",
        type=int,
        metavar="N",
        help=f"where it listens, on 127.0.0.1 (default: as last time, else {USUAL_S3_PORT} if free; 0: any free port)",
    )
    begin.add_argument(
        "--bucket",
        nargs="+",
        action="extend",
        metavar="NAME",
        help=f"buckets to make when they are not there (default: {USUAL_BUCKET} when there is none); means --s3",
    )

    _command(commands, "stop", _stop, "stop it, and the object store; their data is kept", _STOP_EXAMPLES)

    status = _command(commands, "status", _status, "whether it runs, and what is on it", _STATUS_EXAMPLES)
    status.add_argument("--json", action="store_true", help="print one JSON object, for scripts")


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: object,
    text: str,
    examples: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--folder",
        type=Path,
        metavar="FOLDER",
        help="where it keeps everything (default: $OPENMSISTREAM_LOCAL_DIR,"
        " else a folder local-broker in your data folder)",
    )
    parser.set_defaults(run=run)
    return parser


def _start(namespace: argparse.Namespace) -> int:
    from openmsistream.local import ports  # noqa: PLC0415
    from openmsistream.local.broker import LocalBroker  # noqa: PLC0415
    from openmsistream.local.buckets import check_bucket_name  # noqa: PLC0415
    from openmsistream.local.place import store_folder, write_config  # noqa: PLC0415
    from openmsistream.local.state import read_state  # noqa: PLC0415
    from openmsistream.local.store import LocalStore  # noqa: PLC0415
    from openmsistream.local.topics import create_topic, topic_statuses  # noqa: PLC0415

    folder = _folder(namespace)
    port: int | None = namespace.port
    if port is None and read_state(folder) is None and ports.is_free(USUAL_PORT):
        port = USUAL_PORT
    for name in namespace.bucket or []:
        check_bucket_name(name)
    found = LocalStore.find(store_folder(folder))
    wants_store = bool(namespace.s3 or namespace.bucket or namespace.s3_port is not None)
    # Somebody who names a topic or a bucket, or wants a store beside the broker, wants to use the broker that
    # runs already.
    adds = bool(namespace.topic or namespace.bucket or (wants_store and found is None))
    running = LocalBroker.find(folder) if adds and namespace.port is None else None
    store, broker = found, running
    try:
        if wants_store and store is None:
            store = _start_store(store_folder(folder), namespace.s3_port)
        broker = broker or LocalBroker.start(folder, port=port, outlive=True, say=_say)
        wanted: list[str] = namespace.topic or []
        if not wanted and not topic_statuses(broker.bootstrap, broker.data_folder):
            wanted = [USUAL_TOPIC]
        for name in wanted:
            create_topic(broker.bootstrap, name, partitions=namespace.partitions)
        topics = topic_statuses(broker.bootstrap, broker.data_folder)
        if store is not None and wants_store:
            _make_buckets(store, namespace.bucket or [])
        config = write_config(folder, broker.bootstrap, None if store is None else store.access)
    except BaseException:
        # The command failed: nothing may stay that it did not tell of.
        if broker is not None and running is None:
            broker.stop()
        if store is not None and found is None:
            store.stop()
        raise
    print(f"A Kafka broker runs at {broker.bootstrap} (process {broker.pid}).")
    print(f"  data    {broker.folder}  (kept when it is stopped)")
    print(f"  config  {config}")
    for topic in topics:
        print(f"  topic   {topic.name}  ({_count(topic.partitions, 'partition')})")
    if store is not None:
        _print_store(store)
    buckets = [] if store is None else store.bucket_names()
    print(_next_steps(config, wanted[0] if wanted else topics[0].name, buckets, namespace.folder))
    return 0


def _start_store(folder: Path, port: int | None) -> LocalStore:
    from openmsistream.local import ports  # noqa: PLC0415
    from openmsistream.local.store import LocalStore  # noqa: PLC0415
    from openmsistream.local.store_state import read_store_state  # noqa: PLC0415

    if port is None and read_store_state(folder) is None and ports.is_free(USUAL_S3_PORT):
        port = USUAL_S3_PORT
    return LocalStore.start(folder, port=port, outlive=True)


def _make_buckets(store: LocalStore, wanted: list[str]) -> None:
    for name in wanted or ([] if store.bucket_names() else [USUAL_BUCKET]):
        store.create_bucket(name)


def _print_store(store: LocalStore) -> None:
    print(f"\nAn S3 object store runs at {store.endpoint} (process {store.pid}).")
    print(f"  data    {store.folder}  (kept when it is stopped)")
    for name in store.bucket_names():
        print(f"  bucket  {name}")
    print("  its address and keys, as environment variables (the config file has them too):")
    for name, value in store.access.environment().items():
        print(f"     {'set' if sys.platform == 'win32' else 'export'} {name}={value}")


def _next_steps(config: Path, topic: str, buckets: list[str], folder: Path | None) -> str:
    where = _where(folder)
    ends = ["--config", str(config), "--topic-name", topic]
    into = "".join(f"\n     or into a bucket:\n     {_pasted('s3', name, *ends)}" for name in buckets[:1])
    return f"""
Next steps:
  1. Send every file that you put into a folder (leave it running; q or Ctrl-C ends it):
     {_pasted("watch", "my_data", *ends)}
  2. In a second terminal, receive them:
     {_pasted("download", "received", *ends)}{into}
  3. Copy a file into my_data: it appears in received.
  4. See what is on the broker:
     {_pasted("local", "status", *where)}
  5. Stop it, when you are done:
     {_pasted("local", "stop", *where)}"""


def _stop(namespace: argparse.Namespace) -> int:
    from openmsistream.local.broker import LocalBroker  # noqa: PLC0415
    from openmsistream.local.place import store_folder  # noqa: PLC0415
    from openmsistream.local.store import LocalStore  # noqa: PLC0415

    folder = _folder(namespace)
    broker = LocalBroker.find(folder)
    store = LocalStore.find(store_folder(folder))
    if store is not None:
        address, pid = store.endpoint, store.pid
        store.stop()
        print(f"The object store at {address} (process {pid}) has stopped. Its data is kept in {store.folder}.")
    if broker is None:
        if store is None:
            print(f"No broker runs on {folder}.")
        return 0
    address, pid = broker.bootstrap, broker.pid
    broker.stop()
    print(f"The broker at {address} (process {pid}) has stopped. Its data is kept in {folder}.")
    return 0


def _status(namespace: argparse.Namespace) -> int:
    from openmsistream.cli.local_status import show_status  # noqa: PLC0415

    folder = _folder(namespace)
    return show_status(folder, as_json=namespace.json, start=_pasted("local", "start", *_where(namespace.folder)))


def _folder(namespace: argparse.Namespace) -> Path:
    from openmsistream.local.place import default_folder  # noqa: PLC0415

    folder: Path | None = namespace.folder
    return default_folder() if folder is None else folder.absolute()


def _where(folder: Path | None) -> list[str]:
    """The option that leads a pasted command to the same folder; none for the usual one."""
    return [] if folder is None else ["--folder", str(folder.absolute())]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _pasted(*words: str) -> str:
    """A command of ours, as it can be pasted into this system's shell."""
    from openmsistream.config.words import command_line  # noqa: PLC0415
    from openmsistream.local.place import program_name  # noqa: PLC0415

    return command_line(program_name(), *words)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")
