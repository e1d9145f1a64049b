"""Base algorithms: one file each. They know nothing of diffusion."""

from stratdiff.agents.base import AGENTS, Agent

__all__ = ["AGENTS", "Agent"]
