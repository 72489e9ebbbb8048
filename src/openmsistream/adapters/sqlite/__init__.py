"""Ledgers: the durable state of one program, in SQLite."""
