"""The resources of given shares as a cone program of cvxpy, to check the others by."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_gym.typing import Float64Array


class ConeProgram:
    """The problem of given shares ι as a cone program, compiled once for every pattern of a."""

    def __init__(self, n_users: int, grouped: bool) -> None:
        # cvxpy's annotations leave its functions out.
        self._cvxpy: Any = importlib.import_module("cvxpy")
        self._n_users, self._grouped = n_users, grouped
        self._compiled: dict[bytes, tuple[Any, dict[str, Any]]] = {}

    def solve(
        self, users: NDArray[Any], offloaded: Float64Array
    ) -> tuple[float, Float64Array, Float64Array]:
        """Return the cost, in units of the instance, and the shares of uplinks and downlinks."""
        down = offloaded < 1
        if down.tobytes() not in self._compiled:
            self._compiled[down.tobytes()] = self._compile(down)
        problem, named = self._compiled[down.tobytes()]
        # The solver needs numbers near one: shares and stretches in units of equal shares and
        # theirs, time in units of an upload.
        snr, down_snr = (users[f"{name}link_snr"] * self._n_users for name in ("up", "down"))
        log, down_log = np.log1p(snr), np.log1p(down_snr)
        sending = (users["upload"] + offloaded * users["offload"]) * snr / log
        download = users["download"] * down_snr / down_log
        cycles = (1 - offloaded) * users["cycles"]
        unit = float((users["upload"] * snr / log).max())
        price = float(users["time_price"].sum()) * unit
        values = {
            "inverse_snr": 1 / snr,
            "log_snr": np.log(snr),
            "log": log,
            "ready": (users["ready"] - users["ready"].min()) / unit,
            "upload": users["upload"] * snr / log / unit,
            "sending": sending / unit,
            "edge": offloaded * users["edge"] / unit,
            "send_cost": users["send_price"] * sending / price,
            "latency_cost": users["time_price"] * unit / price,
            "down_inverse_snr": 1 / down_snr[down],
            "down_log_snr": np.log(down_snr)[down],
            "down_log": down_log[down],
            "download": download[down] / unit,
            "local": (cycles / users["free_hz"])[down] / unit,
            "fastest": (users["free_hz"] / users["max_hz"])[down],
            "receive_cost": (users["receive_price"] * download)[down] / price,
            "local_cost": (users["heat"] * cycles * users["free_hz"] ** 2)[down] / price,
        }
        for name, parameter in named["parameters"].items():
            parameter.value = values[name]
        problem.solve(solver="CLARABEL")
        uplink, downlink = np.maximum(named["share"].value, 1e-12), np.zeros(len(users))
        if down.any():
            downlink[down] = np.maximum(named["down_share"].value, 1e-12)
        total, down_total = uplink.sum(), max(downlink.sum(), 1e-12)
        if self._grouped:
            total, down_total = 2 * total, 2 * down_total
        else:
            total = down_total = total + downlink.sum()
        return float(problem.value), uplink / total, downlink / down_total

    def _compile(self, down: NDArray[np.bool_]) -> tuple[Any, dict[str, Any]]:
        cp = self._cvxpy
        n_users, n_downloads = self._n_users, int(down.sum())

        def rate(share: Any, link: str) -> Any:
            # b·ln(1 + s/b), with numbers near one for large s too.
            near = cp.rel_entr(share, 1 + cp.multiply(p[f"{link}inverse_snr"], share))
            return cp.multiply(p[f"{link}log_snr"], share) - near

        names = (
            *("inverse_snr", "log", "ready", "upload", "sending", "edge"),
            *("send_cost", "latency_cost"),
        )
        p = {name: cp.Parameter(n_users, nonneg=True) for name in names}
        p["log_snr"] = cp.Parameter(n_users)
        share, stretch, latency = (cp.Variable(n_users) for _ in range(3))
        ready = cp.Variable()
        constraints = [
            rate(share, "") >= cp.multiply(p["log"], cp.inv_pos(stretch)),
            ready >= p["ready"] + cp.multiply(p["upload"], stretch),
            latency >= ready + p["edge"],
            latency >= p["ready"] + cp.multiply(p["sending"], stretch) + p["edge"],
        ]
        cost = p["send_cost"] @ stretch + p["latency_cost"] @ latency
        named = {"parameters": p, "share": share}
        band = cp.sum(share)
        half = n_users / 2 if self._grouped else n_users
        if n_downloads:
            for name in (
                *("down_inverse_snr", "down_log", "download", "local", "fastest"),
                *("receive_cost", "local_cost"),
            ):
                p[name] = cp.Parameter(n_downloads, nonneg=True)
            p["down_log_snr"] = cp.Parameter(n_downloads)
            down_share, longer, slow = (cp.Variable(n_downloads) for _ in range(3))
            received = ready + cp.multiply(p["download"], longer)
            constraints += [
                rate(down_share, "down_") >= cp.multiply(p["down_log"], cp.inv_pos(longer)),
                latency[np.flatnonzero(down)] >= received + cp.multiply(p["local"], slow),
                slow >= p["fastest"],
            ]
            cost += p["receive_cost"] @ longer + p["local_cost"] @ cp.power(slow, -2)
            named["down_share"] = down_share
            if self._grouped:
                constraints.append(cp.sum(down_share) <= half)
            else:
                band += cp.sum(down_share)
        problem = cp.Problem(cp.Minimize(cost), [*constraints, band <= half])
        return problem, named
