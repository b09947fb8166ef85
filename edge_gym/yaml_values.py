"""YAML whose numbers are those of YAML 1.2: ``5e6`` is one, not a word."""

from __future__ import annotations

import re
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """PyYAML reads YAML 1.1, where a number with an exponent needs a point and the sign."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def load_yaml(content: str | bytes) -> Any:
    """Return what YAML says, in plain types.

    Raises:
        yaml.YAMLError: If it is none.
    """
    return yaml.load(content, _Loader)  # the kind that makes plain types alone
