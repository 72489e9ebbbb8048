"""Pure logic: no I/O, clock, thread, logging or environment."""
