"""How fast this package is, measured beside a bare Kafka client and OpenMSIStream 1.8.8 (docs/bench.md)."""
