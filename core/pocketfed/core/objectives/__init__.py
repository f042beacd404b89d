"""Objectives: features of two views -> one loss."""

from pocketfed.core.objectives.nt_xent import nt_xent

__all__ = ["nt_xent"]
