"""Task allocation of asynchronous mobile edge learning, solved exactly.

Equations are those of Mohammad et al. 2020, "Task Allocation for Asynchronous Mobile Edge Learning
with Delay and Energy Constraints".

Arrays in, arrays out, any number of instances at once: leading axes hold instances, the last axis
the K learners, and arguments broadcast.

Learner k holds at most D_k(τ) = min[(T - C⁰)/(C²τ + C¹), (E⁰ - G⁰)/(G²τ + G¹), n_k] samples if it
makes τ updates on them. D_k falls in τ, and given all τ_k any d_k ≤ ⌊D_k(τ_k)⌋ that sum to d will
do. Problem (16) is left with the τ_k of the largest sum for which Σ⌊D_k(τ_k)⌋ ≥ d, and all of them
in some window [m, m + c]. It is no NP-hard program then: for one window, dynamic programming over
learners keeps the least samples lost for each sum of increments, K²·c² steps. With m̂ the largest
number of updates that all can make, only windows that start in (m̂ - c, m̂] can be better than m̂ for
all. A Lagrangian bound leaves out states that cannot be part of an optimum.

Where the paper and the numerical optimum disagree, the optimum is what this module returns:

* The dual (19) is vacuous: F₂ ⪰ 0 has a zero diagonal, which forces λ = γ = 0, and (27) is then
  singular. The suggest step takes the relaxed synchronous optimum of (17) itself.
* (16) rewards the mean of τ_k, not its minimum, which the paper is after: for c ≥ 2 the optimum
  may let slow learners make fewer updates than all could make together. The mean over samples,
  Σd_kτ_k/d, then falls: from 3.25 at c = 1 to 3.20 at c = 3, T = 10 s and E = 20 J. Suggest-and-
  improve only raises, so that nobody makes fewer than m̂ updates, and is exact for c ≤ 1.

Mean τ_k by ``benchmarks/task_allocation.py`` over 1,024 placements of the paper's system
(K = 20, d = 60,000, d_l = 100), and by how much suggest-and-improve stays below on average and at
most. Starved are the placements in which the optimum lets a learner make fewer than m̂ updates:

====  ====  ===  =======  ===================  =======
T, s  E, J  c    optimum  stays below          starved
====  ====  ===  =======  ===================  =======
10    10    0    2.018    0                    0
10    10    1    2.918    0                    0
10    10    2    3.506    0.009, at most 0.65  2 %
10    10    3    4.049    0.020, at most 1.25  2 %
10    10    5    5.261    0.202, at most 2.50  98 %
10    20    1    3.528    0                    0
10    20    2    3.759    0.022, at most 0.20  51 %
10    20    3    4.334    0.436, at most 0.75  100 %
20    10    1    4.611    0                    0
20    10    2    4.932    0.000, at most 0.05  2 %
20    10    3    5.317    0.091, at most 0.45  72 %
20    20    1    5.953    0                    0
20    20    2    6.434    0.053, at most 0.50  15 %
20    20    3    6.869    0.121, at most 1.00  15 %
====  ====  ===  =======  ===================  =======

Microseconds of CPU time of one instance by the same script, by the number of instances at once, of
``exact_allocation`` and of ``suggest_and_improve`` (T = E = 10, 3,000 samples a learner; one core
that others used heavily). HiGHS solves for the updates alone, and did not prove one of its last
three optima within 120 s:

=======  ===========  =========  =========  ==========
K, c     1            16         256        HiGHS
=======  ===========  =========  =========  ==========
20, 0    181, 161     26, 31     8.8, 9.5   3,160
20, 1    168, 186     40, 39     11, 11     11,800
20, 3    232, 185     51, 36     17, 11     159,000
100, 0   305, 334     75, 71     43, 45     3,120
100, 1   328, 323     90, 92     56, 55     90,500
100, 3   379, 290     143, 90    93, 58     3,260,000
1000, 0  827, 724     448, 445   none       8,700
1000, 1  957, 868     532, 534   none       4,680,000
1000, 3  2060, 1320   1690, 841  none       32,300,000
=======  ===========  =========  =========  ==========
"""

from edge_gym.solvers.task_allocation.costs import (
    TaskCosts,
    Tasks,
    equal_allocation,
    relaxed_updates,
)
from edge_gym.solvers.task_allocation.exact import exact_allocation, exact_updates
from edge_gym.solvers.task_allocation.instances import LARGEST
from edge_gym.solvers.task_allocation.splitting import split_samples
from edge_gym.solvers.task_allocation.suggest_improve import suggest_and_improve

__all__ = [
    "LARGEST",
    "TaskCosts",
    "Tasks",
    "equal_allocation",
    "exact_allocation",
    "exact_updates",
    "relaxed_updates",
    "split_samples",
    "suggest_and_improve",
]
