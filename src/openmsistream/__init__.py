"""Move instrument files through Apache Kafka: whole, verified, once."""

__version__ = "2.0.0.dev0"
