"""From a learning step to programs that phones run."""
