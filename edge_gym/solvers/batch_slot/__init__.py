"""Joint batchsize selection and time-slot allocation of federated edge learning, solved exactly.

Equations and theorems are those of Ren et al. 2021, "Accelerating DNN Training in Wireless
Federated Edge Learning Systems".

Arrays in, arrays out, any number of instances at once: the last axis holds the K devices, leading
axes hold instances, arguments broadcast. Slots are shares of their frame T_f, so that the length
of the frames cancels.

With V_k = 1/slope, o_k from ``compute.gpu_offset`` (0 for CPUs), a_k = s/R_k and x = ΔL·E^U the
first sub-period in seconds, Theorem 1 reads B_k = V_k·(x - o_k) + q·√(a_k·V_k) with q < 0, clipped,
and τ_k = a_k/(x - t_k(B_k)). Given x, either of its conditions is linear up to clipping and solved
in closed form: fixing one clipped device at least per pass ends after K passes (Bitran and Hax,
1981). What is left is one search for x:

* For a given B, q follows from ΣB_k = B. The batches then minimise T(x) = Στ_k, and 1/T is concave,
  rises and is linear without clipping. Newton's method for 1/T = 1 starts at Corollary 1's bound
  or a better one and never overshoots.
* For the best B, slots clip(-√(a_k·V_k)/q, α_k, β_k), with α_k and β_k those of the smallest and
  of the largest batch, and Στ_k = 1 give q and the largest B(x), concave with the slope
  q²·Στ_k²/a_k. √B(x)/(x + T_D) is quasiconcave with its maximum where x + T_D = 2·B/B'. Newton's
  method on that, kept between bounds, gives way to bisection where it leaves them or does not
  halve its steps.

Where the paper and the numerical optimum disagree, the optimum is what this module returns:

* (22) with [·]⁺ gives τ_k = 0 where the batch alone takes longer than x; here τ_k is infinite.
* With clipped devices μ of (22) is no multiplier any more, but the formula stays optimal.
* (24) holds with [ΔL·V_k·E - B_max]⁺ in its lower bound.
* Lemma 2 holds at the best B. A GPU's B below the sum of the thresholds is met below them, where
  batches cost nothing.
* Remarks 2 and 3 compare devices of one optimum: of two CPUs, the one that is at least as fast and
  has at least the rate of the other gets at least its batch, and the slot falls with the rate. They
  say nothing of a change of one device: a faster uplink may lower its own batch at the same B.
* Remark 3's "when the local training speed decreases, the device should occupy more time-slot"
  holds between devices whose batches are clipped at the same bound. Unclipped it is the other way
  round, τ_k ∝ √(ρ_k/R_k).

Microseconds of one instance by ``benchmarks/batch_slot.py``, by the number of instances at once
(one core that others used too; CPUs, some devices clipped in most instances). SLSQP has exact
derivatives and starts again up to twice where it fails; cvxpy (Clarabel) solves for a given B and
stops up to 7e-4 above the optimum:

============  =====  ====  ====  ====  =========  =====
K, B          1      16    256   4096  SLSQP      cvxpy
============  =====  ====  ====  ====  =========  =====
6, given      678    77    9.8   9.3   19,300     6,710
6, best       1,310  170   40    23    26,700     none
12, given     798    77    28    18    67,500     7,200
12, best      1,440  630   72    35    1,690,000  none
============  =====  ====  ====  ====  =========  =====
"""

from edge_gym.solvers.batch_slot.costs import (
    Allocation,
    Latency,
    RoundCosts,
    cpu_costs,
    gpu_costs,
    latency,
    learning_efficiency,
    round_batches,
)
from edge_gym.solvers.batch_slot.equal_slots_rules import equal_allocation, equal_slots
from edge_gym.solvers.batch_slot.optimum import optimal_allocation, optimal_slots

__all__ = [
    "Allocation",
    "Latency",
    "RoundCosts",
    "cpu_costs",
    "equal_allocation",
    "equal_slots",
    "gpu_costs",
    "latency",
    "learning_efficiency",
    "optimal_allocation",
    "optimal_slots",
    "round_batches",
]
