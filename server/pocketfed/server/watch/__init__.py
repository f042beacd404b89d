"""Watching a server: one page, `/metrics` for Prometheus, `/healthz`; nothing here may change a round."""
