"""The order of the packages: every import goes down, those in functions too, and in no circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import edge_gym
from edge_gym import agents, baselines

FLOORS = [
    ("typing", "version"),
    ("runtime",),
    ("registry",),
    ("papers",),
    ("physics",),
    ("data",),
    ("learning",),
    ("core",),
    ("solvers",),
    ("envs",),
    ("wrappers",),
    ("baselines",),
    ("evaluation",),
    ("agents.decoders",),
    ("integrations.sb3", "integrations.sb3_imports", "integrations.replay"),
    ("agents",),
    ("integrations",),
    ("reports",),
    ("reproduce",),
    ("testing",),
    ("__init__",),
    ("cli",),
    ("__main__",),
]
"""From the lowest; what stands on one floor does not import each other, unless it is one package.

A module that is named alone stands where it is named, its package's others where that is.
"""

ROOTS = {
    "edge_gym": Path(edge_gym.__file__).parent,
    "edge_gym.baselines": Path(baselines.__file__).parent,
    "edge_gym.agents": Path(agents.__file__).parent,
}


def sources() -> dict[str, Path]:
    """Return the file of every module by its full name."""
    found = {}
    for package, folder in ROOTS.items():
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            name = ".".join((package, *parts)).removesuffix(".__init__")
            found[name] = path
    return found


SOURCES = sources()


def imports(tree: ast.AST, package: str) -> Iterator[tuple[str, int]]:
    """Yield each imported module of ours and its line, but those for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for other in node.orelse:
                yield from imports(other, package)
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{package}:{node.lineno} is relative"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield (whole if whole in SOURCES else str(node.module)), node.lineno
        yield from imports(node, package)


def graph() -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for name, path in SOURCES.items():
        tree = ast.parse(path.read_text("utf-8"))
        found[name] = {
            target: line for target, line in imports(tree, name) if target.startswith("edge_gym")
        }
    return found


GRAPH = graph()


def floor(module: str) -> int:
    """Return the number of a module's floor, the longest name that stands for it."""
    inner = module.removeprefix("edge_gym").removeprefix(".") or "__init__"
    fitting = [
        (len(name), number)
        for number, names in enumerate(FLOORS)
        for name in names
        if inner == name or inner.startswith(f"{name}.")
    ]
    assert fitting, f"{module} stands on no floor"
    return max(fitting)[1]


def package_of(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def test_every_import_goes_down() -> None:
    up = [
        f"{module}:{line} imports {target}"
        for module, targets in GRAPH.items()
        for target, line in targets.items()
        if floor(target) > floor(module)
        or (floor(target) == floor(module) and package_of(target) != package_of(module))
    ]
    assert not up, "\n".join(up)


def test_no_circles() -> None:
    done: set[str] = set()
    path: list[str] = []

    def visit(module: str) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module in done or module not in GRAPH:
            return
        path.append(module)
        for target in GRAPH[module]:
            if target != module:
                visit(target)
        path.pop()
        done.add(module)

    for module in GRAPH:
        visit(module)
