"""The problems. Importing this registers their ids, and nothing else of them is imported."""

# Lists show ids in this order.
# ruff: noqa: I001
from edge_gym.envs.retransmission import presets as _retransmission  # noqa: F401
from edge_gym.envs.data_scheduling import presets as _data_scheduling  # noqa: F401
from edge_gym.envs.update_scheduling import presets as _update_scheduling  # noqa: F401
from edge_gym.envs.batch_slot import presets as _batch_slot  # noqa: F401
from edge_gym.envs.task_allocation import presets as _task_allocation  # noqa: F401
from edge_gym.envs.offloading import presets as _offloading  # noqa: F401
