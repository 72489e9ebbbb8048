"""The flow of data, top to bottom; knows the core and the ports, and no library."""
