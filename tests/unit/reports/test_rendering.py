from __future__ import annotations

import builtins
import os
import subprocess
import sys
import types
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from paths import ROOT

import edge_gym  # noqa: F401
from edge_gym.core.scene import BarPanel, GaugePanel, ImagePanel, LinePanel, Panel, Scene
from edge_gym.reports.draw import Window, draw
from edge_gym.reports.gif import save_gif

PANELS: dict[str, Panel] = {
    "grey": ImagePanel(title="Grey", image=np.eye(14), caption="$5 in class"),
    "colour": ImagePanel(title="Colour", image=np.random.default_rng(0).random((8, 4, 3))),
    "line": LinePanel(
        title="Lines",
        x=np.arange(4),
        series={"a": [1, 2, np.nan, 4], "b": [4, 3, 2, 1]},
        x_label="slot",
        y_label="rate, Mbit/s",
        references={"target": 2.5},
    ),
    "bar": BarPanel(
        title="Bars",
        labels=["0", "", "2"],
        series={"scheduled": [1, np.nan, np.nan], "idle": [np.nan, -2, 3]},
        targets={"asked": [1, 1, np.nan]},
        x_label="device",
        y_label="energy, J",
    ),
    "gauge": GaugePanel(title="Gauge", value=3, maximum=7, unit="J"),
}
EMPTY = {
    "line": LinePanel(title="", x=[], series={"a": []}, x_label="x", y_label="y"),
    "constant": LinePanel(title="", x=[0], series={"a": [0]}, x_label="x", y_label="y"),
    "nan": LinePanel(title="", x=[0, 1], series={"a": [np.nan] * 2}, x_label="x", y_label="y"),
    "bar": BarPanel(title="", labels=[], series={}, x_label="x", y_label="y"),
    "zero": BarPanel(title="", labels=["0"], series={"a": [0]}, x_label="x", y_label="y"),
    "gauge": GaugePanel(title="", value=0, maximum=1, unit=""),
}


def scene_of(*panels: Panel) -> Scene:
    return Scene(title="A scene", text="A line", panels=[panels])


def test_all_panels_at_the_size_asked_for() -> None:
    scene = Scene(title="All", panels=[[*PANELS.values()], [PANELS["line"], PANELS["bar"]]])
    picture = draw(scene)
    assert picture.shape == (500, 900, 3)
    assert picture.dtype == np.uint8
    assert picture.flags.c_contiguous
    assert picture.flags.writeable
    for width, height in [(1, 1), (317, 211), (640, 480), (1800, 1000)]:
        assert draw(scene, width, height).shape == (height, width, 3)
    with pytest.raises(ValueError, match=r"at least 1 pixel, got 0 x 5"):
        draw(scene, 0, 5)


@pytest.mark.parametrize("panel", PANELS.values(), ids=PANELS.keys())
def test_every_panel_adds_something(panel: Panel) -> None:
    assert (draw(scene_of(panel)) != draw(scene_of())).any()


@pytest.mark.parametrize("panel", EMPTY.values(), ids=EMPTY.keys())
def test_empty_panels(panel: Panel) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert draw(scene_of(panel)).shape == (500, 900, 3)


def test_images_keep_their_pixels_and_orientation() -> None:
    image = np.zeros((2, 2, 3))
    image[0, 0] = [1, 0, 0]
    image[1, 1] = [0, 1, 0]
    picture = draw(scene_of(ImagePanel(title="", image=image)))
    rows, columns = np.nonzero((picture == [255, 0, 0]).all(axis=2))
    green_rows, green_columns = np.nonzero((picture == [0, 255, 0]).all(axis=2))
    assert len(rows) == pytest.approx(len(green_rows), rel=0.02)
    assert rows.max() < green_rows.min()
    assert columns.max() < green_columns.min()


def test_pictures_do_not_depend_on_the_users_style_or_on_threads() -> None:
    import matplotlib as mpl
    import matplotlib.style

    scene = scene_of(*PANELS.values())
    expected = draw(scene)
    backend = mpl.rcParams["backend"]
    with mpl.rc_context():
        matplotlib.style.use("dark_background")
        mpl.rcParams.update({"font.size": 20, "lines.linewidth": 7, "text.usetex": True})
        np.testing.assert_array_equal(draw(scene), expected)
    with ThreadPoolExecutor(3) as pool:
        for picture in pool.map(draw, [scene] * 6):
            np.testing.assert_array_equal(picture, expected)
    assert mpl.rcParams["backend"] == backend


def test_importing_and_making_need_no_matplotlib() -> None:
    code = (
        "import sys, gymnasium as gym, edge_gym\n"
        "gym.make('edge_gym/Retransmission-v0').reset(seed=0)\n"
        "assert not {'matplotlib', 'PIL'} & set(sys.modules)\n"
    )
    root = ROOT
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *sys.path])}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def without(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == module:
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)


def test_missing_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "matplotlib")
    with pytest.raises(ImportError, match=r"need matplotlib.*pip install 'edge_gym\[plots\]'"):
        draw(scene_of())
    with pytest.raises(ImportError, match=r"pip install 'edge_gym\[plots\]'"):
        Window(10).show(scene_of())


def test_missing_pillow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without(monkeypatch, "PIL")
    with pytest.raises(ImportError, match=r"need Pillow.*pip install 'edge_gym\[plots\]'"):
        save_gif([np.zeros((2, 2, 3), np.uint8)], tmp_path / "a.gif", 10)


@pytest.mark.parametrize(
    ("env_id", "overrides"),
    [
        ("Retransmission-v0", {}),
        ("Retransmission-v0", {"image_size": 28, "mean_snr_db": -5}),
        ("RetransmissionMulticlass-v0", {}),
        ("Retransmission-v0", {"learner": "mlp", "train_steps": 2}),
    ],
)
def test_retransmission_from_start_to_end(env_id: str, overrides: dict[str, Any]) -> None:
    env = gym.make(f"edge_gym/{env_id}", render_mode="rgb_array", budget=50, **overrides)
    observation, _ = env.reset(seed=3)
    pictures: list[Any] = [env.render()]
    done, used = False, 0
    while not done:
        observation, _, done, _, _ = env.step(int(observation[0] <= 13))
        used += 1
        if used in (20, 50):
            pictures.append(env.render())
    assert len(pictures) == 3
    for picture in pictures:
        assert isinstance(picture, np.ndarray)
        assert picture.shape == (500, 900, 3)
    assert not np.array_equal(pictures[0], pictures[1])
    np.testing.assert_array_equal(env.render(), pictures[-1])


def test_the_last_picture_shows_the_last_sample() -> None:
    env: Any = gym.make("edge_gym/Retransmission-v0", budget=3).unwrapped
    env.reset(seed=0)
    env.step(0)
    env.step(0)
    before = env.problem.scene(0)
    env.step(0)
    after = env.problem.scene(0)
    for index in (0, 1):
        np.testing.assert_array_equal(before.panels[0][index].image, after.panels[0][index].image)
    assert "budget spent" in after.text
    assert np.isfinite(before.panels[0][2].series["now"]).sum() == 1
    assert not np.isfinite(after.panels[0][2].series["now"]).any()
    assert np.isfinite(after.panels[0][2].series["accepted"]).sum() == 3


def test_rendering_changes_nothing() -> None:
    rewards = []
    for render_mode in ("rgb_array", None):
        env = gym.make("edge_gym/Retransmission-v0", render_mode=render_mode, budget=30)
        env.reset(seed=5)
        steps = []
        for use in range(30):
            if render_mode:
                env.render()
            steps.append(env.step(use % 2)[1])
        rewards.append(steps)
    assert rewards[0] == rewards[1]


def test_vector_environments_draw_what_scalar_ones_do() -> None:
    vector = gym.make_vec("edge_gym/Retransmission-v0", num_envs=2, render_mode="rgb_array")
    vector.reset(seed=7)
    for _ in range(3):
        vector.step(np.array([1, 1]))
    pictures = vector.render()
    assert pictures is not None
    for lane, picture in enumerate(pictures):
        env = gym.make("edge_gym/Retransmission-v0", render_mode="rgb_array")
        env.reset(seed=7 + lane)
        for _ in range(3):
            env.step(1)
        np.testing.assert_array_equal(picture, env.render())


FRAMES = [np.full((20, 30, 3), value, np.uint8) for value in (0, 90, 180, 250)]


def test_gif_holds_all_frames(tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "episode.gif"
    save_gif(FRAMES, str(path), fps=10)
    with Image.open(path) as gif:
        assert (gif.n_frames, gif.size, gif.info["duration"]) == (4, (30, 20), 100)
        for index, frame in enumerate(FRAMES):
            gif.seek(index)
            np.testing.assert_allclose(np.asarray(gif.convert("RGB"), int), frame, atol=8)
    assert list(tmp_path.iterdir()) == [path]


def test_gif_is_complete_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "episode.gif"
    path.write_bytes(b"before")

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)  # A read-only folder, to root too.
    with pytest.raises(OSError, match=r"cannot write .*episode\.gif: Permission denied"):
        save_gif(FRAMES, path, fps=10)
    monkeypatch.undo()
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PermissionError, match="cannot write"):
        save_gif(FRAMES, path, fps=10)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_gif_refuses_nonsense(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        save_gif(FRAMES, tmp_path / "nowhere" / "a.gif", fps=10)
    with pytest.raises(ValueError, match="one shape"):
        save_gif([], path, fps=10)
    with pytest.raises(ValueError, match="one shape"):
        save_gif([FRAMES[0], FRAMES[0][1:]], path, fps=10)
    with pytest.raises(ValueError, match=r"fps must be a finite number in \[0.01, 50\], got 0"):
        save_gif(FRAMES, path, fps=0)


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Gives matplotlib a backend with windows that need no display; lists the pauses."""
    import matplotlib.pyplot as plt
    from matplotlib.backend_bases import FigureManagerBase
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    pauses: list[float] = []

    class Canvas(FigureCanvasAgg):
        required_interactive_framework = "headless"
        manager_class = FigureManagerBase

        def start_event_loop(self, timeout: float = 0) -> None:
            pauses.append(timeout)

    module: Any = types.ModuleType("fake_screen")
    module.FigureCanvas, module.FigureManager = Canvas, FigureManagerBase
    monkeypatch.setattr(FigureManagerBase, "show", lambda self: None)
    monkeypatch.setitem(sys.modules, "fake_screen", module)
    before = plt.get_backend()
    plt.switch_backend("module://fake_screen")
    yield pauses
    plt.switch_backend(before)


def test_window_shows_at_its_pace_and_leaves_the_users_figures(screen: list[float]) -> None:
    import matplotlib.pyplot as plt

    window = Window(fps=20)
    window.close()
    window = Window(fps=20)
    window.show(scene_of(*PANELS.values()))
    window.show(scene_of())
    assert screen == [0.05, 0.05]
    assert plt.get_fignums() == []
    window._manager.canvas.callbacks.process("close_event", None)
    window.show(scene_of())
    assert len(screen) == 2
    window.close()
    window.close()


def test_check_env(screen: list[float]) -> None:
    env = gym.make("edge_gym/Retransmission-v0", render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)
    assert screen


def test_headless_window(monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib.pyplot as plt

    plt.switch_backend("agg")
    env = gym.make("edge_gym/Retransmission-v0", render_mode="human")
    with pytest.raises(RuntimeError, match=r"'human' needs a display.*use render_mode='rgb_array'"):
        env.reset(seed=0)
    env.close()

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise ImportError("cannot load TkAgg: headless")

    monkeypatch.setattr(plt, "new_figure_manager", refuse)
    with pytest.raises(RuntimeError, match=r"needs a display.*headless"):
        Window(10).show(scene_of())
