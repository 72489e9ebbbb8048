"""What this package is meant to reach, as numbers: the only place they stand in.

Pure values. The ratios are ours divided by another's of the same round; whoever prints them says pass or
miss, and nothing fails because of a miss.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """
    One promise about speed or thrift.

    Attributes:
        name: What is measured, as the table shows it.
        bound: The number to reach.
        at_least: True when more is better.
        unit: What ``bound`` is counted in; ``x`` for a ratio.
    """

    name: str
    bound: float
    at_least: bool
    unit: str

    def met(self, value: float) -> bool:
        """True when ``value`` keeps the promise."""
        return value >= self.bound if self.at_least else value <= self.bound


UP_OF_BARE = Target("1 GiB up, of bare client", 0.9, at_least=True, unit="x")
UP_OF_PEER = Target("1 GiB up, of 1.8.8", 1.8, at_least=True, unit="x")
DOWN_OF_FLOOR = Target("1 GiB down, of floor 2", 0.95, at_least=True, unit="x")
DOWN_OF_PEER = Target("1 GiB down, of 1.8.8", 6.0, at_least=True, unit="x")
UP_CPU = Target("1 GiB up, CPU", 2.2, at_least=False, unit="s/GB")
DOWN_CPU = Target("1 GiB down, CPU", 1.2, at_least=False, unit="s/GB")
UP_RSS = Target("1 GiB up, peak memory", 200.0, at_least=False, unit="MB")
DOWN_RSS = Target("1 GiB down, peak memory", 200.0, at_least=False, unit="MB")
SMALL_UP = Target("10 KB files up", 3000.0, at_least=True, unit="files/s")
SMALL_DOWN = Target("10 KB files down", 3000.0, at_least=True, unit="files/s")
SMALL_MANY = Target("100,000 files of 10 KB up", 5000.0, at_least=True, unit="files/s")
LATENCY_MEDIAN = Target("close() to acknowledged, median", 20.0, at_least=False, unit="ms")
LATENCY_HIGH = Target("close() to acknowledged, 99 of 100", 100.0, at_least=False, unit="ms")
GROWING = Target("2 GB while written: close() to delivered", 5.0, at_least=False, unit="s")
BURST = Target("20,000 files in a second, its end to the last sent", 15.0, at_least=False, unit="s")
SCALE_FIRST = Target("1,000,000 files known: start to new file sent", 10.0, at_least=False, unit="s")
SCALE_RSS = Target("1,000,000 files known: peak memory", 300.0, at_least=False, unit="MB")
KNOWN_FIRST = Target("1,000,000 files delivered before: start to new file delivered", 5.0, at_least=False, unit="s")
S3_OF_BARE = Target("1 GiB Kafka to S3, of boto3.upload_file", 0.7, at_least=True, unit="x")
S3_RSS = Target("1 GiB Kafka to S3, peak memory", 250.0, at_least=False, unit="MB")
S3_RSS_HUGE = Target("10 GiB Kafka to S3, peak memory", 250.0, at_least=False, unit="MB")
S3_SMALL_OF_LOOP = Target("10 KB files to S3, of a put_object loop", 10.0, at_least=True, unit="x")
S3_FAR_OF_LOOP = Target("10 KB files to S3 20 ms away, of a put_object loop", 10.0, at_least=True, unit="x")
IMPORT = Target("import openmsistream", 0.1, at_least=False, unit="s")
HELP = Target("openmsistream --help", 0.3, at_least=False, unit="s")
