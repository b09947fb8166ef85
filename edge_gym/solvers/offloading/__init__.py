"""Joint model training and task inference: who offloads how much, and who gets which band.

Arrays in, arrays out, any number of instances at once: the last axis holds the M users, leading
axes hold instances, arguments broadcast.

Equations and Algorithm 1 are those of Li et al. 2021, "Optimizing Resource Allocation for Joint AI
Model Training and Task Inference in Edge Intelligence Systems".

``evaluate`` is (1)-(10a). The methods differ in how they choose the shares ι of the tasks:

* For given ι the problem is convex. ``optimal_resources`` solves it with a primal-dual interior
  point to a relative gap of 1e-8: users meet in τ̂ and in the band alone, so that one step takes a
  number of operations linear in M. Frequencies then follow from Proposition 1.
* ``exhaustive`` does so for all ι on a grid, ``local_only`` for ι = 0, ``edge_only`` for ι = 1.
* ``admm`` is the method of Li et al. 2021. For given ι the users' subproblems (18) split into an
  uplink's, with τ̂, and a downlink's once it is known how much of w^t lies on the branch at the
  server, 0 unless that branch dominates: three nested searches by Newton's method.
* ``near_optimal`` looks at τ̂ on a grid. Given τ̂, users meet in the band alone: each one's least
  cost is tabulated for every number of cells of the band, uplink, downlink and ι being free (for
  given shares the cost is convex in ι < 1, with a closed form; ι = 1 is a branch of its own), and
  dynamic programming shares the cells out. Uplinks have in advance what lets their update arrive
  by τ̂, and cells are what is left. Then τ̂ and shares are looked at in ever finer grids around the
  best, and its ι gets its optimal resources.
* ``given_bands`` is GBE.

The corrections of the paper are in ``docs/conventions.md``. A training iteration, n < N, is one
without tasks: ι and frequencies are 0, and every user downloads the model.

With M = 4 and Table I, the gap of ``admm`` to the exhaustive optimum of step 0.2, in percent, mean
and worst of 120 draws, and the median and largest number of iterations until (24), at most 500 with
c = 2 and 2,000 with c = 20 (``near_optimal`` ends at most 0.02 above that optimum):

===  ===========  ===========  ==========  ===========  ==========
σ    D_m in Mbit  c = 2        iterations  c = 20       iterations
===  ===========  ===========  ==========  ===========  ==========
2.9  4            -0.98, 0.15  43, 75      -0.95, 0.46  38, 94
2.9  16           -0.06, 0.70  66, 113     0.30, 1.88   135, 317
2.9  48           0.00, 0.00   61, 154     0.12, 2.75   13, 912
2.5  16           0.01, 0.41   44, 73      0.36, 1.52   286, 347
2.7  16           -0.02, 0.19  59, 84      0.43, 1.56   169, 325
3.1  16           0.03, 1.36   59, 500     0.51, 2.00   152, 369
3.3  16           0.02, 0.54   59, 111     0.21, 2.50   210, 384
===  ===========  ===========  ==========  ===========  ==========

Milliseconds of one instance by ``benchmarks/offloading.py``, of one at a time and of 64 at once
(one core that others used too; CPU time of one thread). cvxpy (Clarabel) solves for one given ι,
compiled for its pattern of downloads before or in that time:

======================  ============  ===========  ============  ============
                        M = 4         12           50            200
======================  ============  ===========  ============  ============
evaluate                0.22, 0.0041  0.21, 0.005  0.23, 0.0066  0.14, 0.0087
optimal_resources       0.26, 0.032   0.31, 0.095  0.51, 0.38    1.6, 1.6
near_optimal            1, 0.73       2.9, 2.4     7.5, 7.3      29, 31
admm, c = 2             9.7, 9        4.7, 4.7     20, 28        78, 144
admm, c = 20            18, 16        14, 18       74, 87        311, 376
local_only              0.3, 0.031    0.34, 0.093  0.48, 0.4     1.7, 1.6
edge_only               0.23, 0.022   0.32, 0.06   0.34, 0.2     0.87, 0.63
given_bands             6.8, 9        4.9, 4.7     21, 27        103, 130
exhaustive              34, 30        none         none          none
cvxpy, compiled before  3.9           6.3          14            48
cvxpy, compiled within  26            36           73            1,160
======================  ============  ===========  ============  ============
"""

from edge_gym.solvers.offloading.admm_method import admm, given_bands
from edge_gym.solvers.offloading.costs import (
    Evaluation,
    Offloading,
    OffloadingCosts,
    best_frequency,
    evaluate,
)
from edge_gym.solvers.offloading.exhaustive_search import exhaustive
from edge_gym.solvers.offloading.near_optimal_search import near_optimal
from edge_gym.solvers.offloading.resources import edge_only, local_only, optimal_resources

__all__ = [
    "Evaluation",
    "Offloading",
    "OffloadingCosts",
    "admm",
    "best_frequency",
    "edge_only",
    "evaluate",
    "exhaustive",
    "given_bands",
    "local_only",
    "near_optimal",
    "optimal_resources",
]
