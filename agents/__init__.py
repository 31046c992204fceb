"""What acts: the agent, its planner and replay, the online loop.

>>> import agents, envs
>>> agent = agents.load("runs/dmc-cartpole-swingup/gje_conditional-seed1")
>>> env = envs.make("dmc/cartpole-swingup", seed=0)
>>> obs, info = env.reset()
>>> action = agent.act(obs)
"""

from agents.agent import Agent, AgentConfig
from agents.config import EnvConfig, TrainConfig
from agents.loading import load
from agents.start import train_agent

__all__ = ["Agent", "AgentConfig", "EnvConfig", "TrainConfig", "load", "train_agent"]
