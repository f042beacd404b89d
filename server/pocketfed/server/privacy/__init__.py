"""Central differential privacy: what a published model may reveal of any one phone; see docs/privacy.md."""
