"""Fixtures of several files."""

from tests.minigpt.hub_server import hub_server

__all__ = ["hub_server"]
