"""Joint allocation of tasks, band, powers and clocks in mobile edge learning.

Arrays in, arrays out, any number of instances at once: leading axes hold instances, the last axis
the K learners, and arguments broadcast.

In a cycle of T seconds learner k receives the model and d_k samples, makes τ_k updates on them at
f_k cycles per second and sends the model back with p_k watts; both ways have w_k Hz of the shared
band. Sorour et al. 2020 name the problem, Mohammad et al. 2020 its quantities and the
objective, the largest mean of τ_k.

With x = ln(1 + p·g/w) an upload of S bits takes t = ln(2)·S/(w·x) seconds and
ln(2)·S/g·(eˣ - 1)/x joules, which fall with t by (w/g)·(x·eˣ - eˣ + 1) joules per second. Those of
the clock fall by 2·κ·f³. A learner that can hold as many samples as possible, D(τ, w), saves as
much by either unless p or f is as high as it may be. So f follows from x, the cycles from the
energy that is left, and the seconds, which fall with x, give x. With full power 1/f is the root of
a cubic; where energy suffices for full power and speed, D is a fraction. Lagrange multipliers of
time and energy give the derivatives of D by w and τ.

All constraints of one learner are posynomials, t·p·g = Σ (ln(2)·S)ⁿ/(n!·(w·t)ⁿ⁻¹), hence ln(D) is
concave in ln(w) and ln(τ). D itself need not be concave in w. Where 4,000 learners of the system of
Mohammad et al. 2020 (T = 5..40 s, E = 10..30 J) hold 100 samples or more for one update, D' rises
for 5 % while the band is narrow, by w^0.01 at most, and for five updates for none. Of learners
drawn at random it rises for 5 to 17 % where time binds, by w^0.11 at most, and for up to 2 % where
energy does. So one price shares the band: each learner takes as much as has D' ≥ price, on the
concave hull of D where that begins convex. D' jumps down where energy begins to bind; many learners
end there.

* ``synchronous_optimum``: Newton's method for ln(ΣD) = ln(d) in ln(τ), the band shared for each τ.
  No dual bound of some 220 random instances left more than 0.5 % of the samples, and no ascent from
  20 random splits gained more than 0.05 % (3 of 930 instances more than 1e-6).
* ``joint_allocation``: exact updates (``task_allocation``) in the bands of the synchronous optimum,
  in equal bands and in those of ``resource_allocation``. For the best of them the band is shared
  anew and those learners that lose the fewest samples are tried one update more, turn by turn with
  exact updates, until nothing is gained. In 686 instances of 2 and 3 learners a fine grid of
  splits, with exact updates in each, was better once, by one update, and worse 68 times.
* ``resource_allocation``: least bands for equal tasks, raised where that costs the least band.

Microseconds of one instance, by the number of instances at once (processor time of one core that
others used too; that system at T = 12 s and E = 10 J, caps c; K = 10 share 1,500
samples, at least 10 each, the others 3,000 per learner, at least 100 each):

====  ===============  ======  ======
K     method           1       64
====  ===============  ======  ======
10    joint, c = 0     856     296
10    joint, c = 1     1,120   415
10    joint, c = 3     1,400   523
10    joint, no cap    2,510   1,390
10    resource, c = 1  186     51
20    joint, c = 1     1,540   821
20    resource, c = 1  193     108
100   joint, c = 1     4,690   3,660
100   joint, no cap    54,600  49,100
100   resource, c = 1  573     446
====  ===============  ======  ======
"""

from edge_gym.solvers.task_resources.allocation import (
    joint_allocation,
    resource_allocation,
    synchronous_optimum,
)
from edge_gym.solvers.task_resources.limits import (
    ResourceLimits,
    Resources,
    best_resources,
    capacity,
    max_updates,
    needs,
)

__all__ = [
    "ResourceLimits",
    "Resources",
    "best_resources",
    "capacity",
    "joint_allocation",
    "max_updates",
    "needs",
    "resource_allocation",
    "synchronous_optimum",
]
