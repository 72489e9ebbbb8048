"""A real Kafka broker on this computer, for the demo, the tests and the tutorial."""
