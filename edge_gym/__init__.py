"""Gymnasium environments for wireless edge learning, rewarded by training real models.

``import edge_gym`` registers the environments: ``gym.make("edge_gym/Retransmission-v0")`` and
``gym.make_vec("edge_gym/Retransmission-v0", num_envs=64)``.

Modules are imported when they are used: ``edge_gym.comparison`` needs no import of its own.
"""

from importlib import import_module
from types import ModuleType

from edge_gym import isolation as _isolation  # noqa: F401  # what it does in forked children
from edge_gym.registration import ENVIRONMENTS, register_environments

__version__ = "0.1.0"

__all__ = ["ENVIRONMENTS", "__version__", "register_environments"]

register_environments()


def __getattr__(name: str) -> ModuleType:
    module = f"{__name__}.{name}"
    if not name.startswith("_"):
        try:
            return import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
