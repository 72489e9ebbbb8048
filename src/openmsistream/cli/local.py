"""``openmsistream local``: start, stop and look at a real Kafka broker on this computer.

Owns the words and options of these commands. It must not know how the broker is fetched, configured or
run. Imports stand inside the functions, so that ``openmsistream --help`` answers at once.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openmsistream.local.broker import LocalBroker
    from openmsistream.local.topics import TopicStatus

USUAL_PORT = 9092
USUAL_TOPIC = "files"

_START_HELP = """\
Start a real Apache Kafka broker on this computer, leave it running, and say what to do next.

The first start fetches Apache Kafka (45 MB) once; after that no network is needed. Only programs on this
computer can reach the broker. Topics and files on them are kept when it is stopped.
"""
_START_EXAMPLES = """\
examples:
  1. Start it, with a topic called files:
     openmsistream local start
  2. With two topics of four partitions each:
     openmsistream local start --topic xrd microscope --partitions 4
  3. A second one, for trying things out:
     openmsistream local start --folder trial-broker --port 9192
"""
_STATUS_EXAMPLES = """\
exit code: 0 when it runs, 1 when it does not

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
        help="a real Kafka broker on this computer, for trying things out",
        description="A real Kafka broker on this computer: start it, stop it, see what is on it.",
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

    _command(commands, "stop", _stop, "stop it; its data is kept", _STOP_EXAMPLES)

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
    from openmsistream.local.place import write_config  # noqa: PLC0415
    from openmsistream.local.state import read_state  # noqa: PLC0415
    from openmsistream.local.topics import create_topic, topic_statuses  # noqa: PLC0415

    folder = _folder(namespace)
    port: int | None = namespace.port
    if port is None and read_state(folder) is None and ports.is_free(USUAL_PORT):
        port = USUAL_PORT
    # Somebody who names a topic wants to use it: a broker that runs already only has to make it.
    running = LocalBroker.find(folder) if namespace.topic and port is None else None
    broker = running or LocalBroker.start(folder, port=port, outlive=True, say=_say)
    try:
        wanted: list[str] = namespace.topic or []
        if not wanted and not topic_statuses(broker.bootstrap, broker.data_folder):
            wanted = [USUAL_TOPIC]
        for name in wanted:
            create_topic(broker.bootstrap, name, partitions=namespace.partitions)
        config = write_config(folder, broker.bootstrap)
        topics = topic_statuses(broker.bootstrap, broker.data_folder)
    except BaseException:
        if running is None:
            broker.stop()  # the command failed: nothing may stay that it did not tell of
        raise
    print(f"A Kafka broker runs at {broker.bootstrap} (process {broker.pid}).")
    print(f"  data    {broker.folder}  (kept when it is stopped)")
    print(f"  config  {config}")
    for topic in topics:
        print(f"  topic   {topic.name}  ({_count(topic.partitions, 'partition')})")
    print(_next_steps(config, wanted[0] if wanted else topics[0].name, namespace.folder))
    return 0


def _next_steps(config: Path, topic: str, folder: Path | None) -> str:
    where = _where(folder)
    ends = ["--config", str(config), "--topic-name", topic]
    return f"""
Next steps:
  1. Send every file that you put into a folder (leave it running; q or Ctrl-C ends it):
     {_pasted("watch", "my_data", *ends)}
  2. In a second terminal, receive them:
     {_pasted("download", "received", *ends)}
  3. Copy a file into my_data: it appears in received.
  4. See what is on the broker:
     {_pasted("local", "status", *where)}
  5. Stop it, when you are done:
     {_pasted("local", "stop", *where)}"""


def _stop(namespace: argparse.Namespace) -> int:
    from openmsistream.local.broker import LocalBroker  # noqa: PLC0415

    folder = _folder(namespace)
    broker = LocalBroker.find(folder)
    if broker is None:
        print(f"No broker runs on {folder}.")
        return 0
    address, pid = broker.bootstrap, broker.pid
    broker.stop()
    print(f"The broker at {address} (process {pid}) has stopped. Its data is kept in {folder}.")
    return 0


def _status(namespace: argparse.Namespace) -> int:
    from openmsistream.local.broker import LocalBroker  # noqa: PLC0415
    from openmsistream.local.place import CONFIG_FILE  # noqa: PLC0415
    from openmsistream.local.state import how_it_ended  # noqa: PLC0415
    from openmsistream.local.topics import topic_statuses  # noqa: PLC0415

    folder = _folder(namespace)
    broker = LocalBroker.find(folder)
    answers = broker is not None and broker.is_ready(5)
    topics: list[TopicStatus] = []
    if broker is not None and answers:
        topics = topic_statuses(broker.bootstrap, broker.data_folder)
    ended = "" if broker is not None else how_it_ended(folder)
    if namespace.json:
        _print_json(folder, broker, answers, topics, ended)
    elif broker is None:
        print(f"Not running: {ended}")
        print(f"  data    {folder}")
        print(f"  start   {_pasted('local', 'start', *_where(namespace.folder))}")
    else:
        print(f"Running at {broker.bootstrap} (process {broker.pid}).")
        print(f"  data    {broker.folder}")
        print(f"  config  {folder / CONFIG_FILE}")
        print(f"  log     {broker.log_file}")
        if answers:
            _print_topics(topics)
        else:
            print("  It does not answer: it may be starting, frozen or out of memory. See its log.")
    return 0 if answers else 1


def _print_topics(topics: list[TopicStatus]) -> None:
    if not topics:
        print("  no topics")
        return
    rows = [("topic", "partitions", "messages", "size")]
    rows += [(one.name, str(one.partitions), str(one.messages), _size(one.size_bytes)) for one in topics]
    width = max(len(row[0]) for row in rows)
    print()
    for name, partitions, messages, size in rows:
        print(f"  {name:<{width}}  {partitions:>10}  {messages:>10}  {size:>10}")


def _print_json(folder: Path, broker: LocalBroker | None, answers: bool, topics: list[TopicStatus], ended: str) -> None:
    import json  # noqa: PLC0415
    from dataclasses import asdict  # noqa: PLC0415

    values = {
        "running": broker is not None,
        "answers": answers,
        "bootstrap": None if broker is None else broker.bootstrap,
        "pid": None if broker is None else broker.pid,
        "folder": str(folder),
        "ended": ended,
        "topics": [asdict(one) for one in topics],
    }
    print(json.dumps(values, indent=2))


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
    from openmsistream.local.place import program_name  # noqa: PLC0415

    words = (program_name(), *words)
    return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")


def _size(size_bytes: int) -> str:
    size = float(size_bytes)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
