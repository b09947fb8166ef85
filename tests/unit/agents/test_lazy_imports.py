"""The agents need torch and stable-baselines3 only where they are used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from training_runs import ID, TINY


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_imports_are_lazy(agent_file: Path) -> None:
    code = f"""
import sys
import edge_gym.agents as agents
assert agents.shipped_agents({ID!r}) is not None
agents.find_recipe("ppo", {ID!r}), agents.AgentError
agents.read_agent_metadata({str(agent_file)!r})
unneeded = {{"torch", "stable_baselines3"}} & set(sys.modules)
assert not unneeded, unneeded
sys.modules["stable_baselines3"] = None
from edge_gym.evaluation.rollouts import make_lanes, run_episodes
env = make_lanes({ID!r}, 2, {TINY!r})
run_episodes(env, agents.load_agent({str(agent_file)!r}, env), [700_000])
try:
    agents.train
except ModuleNotFoundError as error:
    assert "pip install 'edge_gym[agents]'" in str(error), error
else:
    raise AssertionError
try:
    agents.nothing
except AttributeError:
    print("done")
"""
    result = _python(code)
    assert result.stdout.strip() == "done", result.stderr
