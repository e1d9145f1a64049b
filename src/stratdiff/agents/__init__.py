"""Base algorithms: one file each. They know nothing of diffusion."""

from stratdiff.agents.base import Agent
from stratdiff.agents.calql import CalQL, CalQLConfig
from stratdiff.agents.iql import IQL, IQLConfig
from stratdiff.agents.sac import SAC, SACConfig

AgentConfig = CalQLConfig | IQLConfig | SACConfig

__all__ = ["IQL", "SAC", "Agent", "AgentConfig", "CalQL", "CalQLConfig", "IQLConfig", "SACConfig"]
