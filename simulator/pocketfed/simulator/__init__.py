"""Many emulated phones on one machine, and the command line."""
