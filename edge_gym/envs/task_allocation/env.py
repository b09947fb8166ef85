"""The Gymnasium environments of task allocation."""

from __future__ import annotations

from edge_gym.core.env import EdgeEnv
from edge_gym.core.vector_env import EdgeVectorEnv
from edge_gym.envs.task_allocation.dynamics import TaskAllocation


class TaskAllocationEnv(EdgeEnv):
    """How many samples does each learner get in this global cycle, and how often does it go over?

    ## Description
    In every global cycle of T seconds the orchestrator sends its model to K learners; learner k
    trains τ_k epochs of mini-batch SGD on d_k samples (an epoch is called an update), sends its
    model back, and the orchestrator averages what arrives with weights d_k, (3). In parallelized
    learning (PL) the orchestrator owns the samples, shuffles them and sends each learner its part
    in every cycle; in federated learning (FL) learners draw from samples of their own. Learners
    differ in CPU speed, rate and energy, and

    - time (11): C²·τ_k·d_k + C¹·d_k + C⁰ ≤ T,
    - energy (10): G²·τ_k·d_k + G¹·d_k + G⁰ ≤ E_k⁰,

    with C² = C_m/f_k, C¹ = F·P_d/R_k (0 in FL), C⁰ = 2·P_m·S_m/R_k, G² = κ·C_m·f_k², G¹ = 0 and
    G⁰ = P·P_m·S_m/R_k (a model that grows with samples adds to C¹ and G¹). All of it is really
    trained. Learners whose τ_k is 0 are left out of the average and of
    the staleness.

    A learner receives, computes and sends one after the other, and the next cycle begins at T, so
    that nothing is used twice at a time. The model's way takes time in both directions, samples'
    one way; receiving takes no energy, and the orchestrator's is not counted. What costs nothing:
    what it must be told of learners, the tasks that it sends them, and the average.

    Where models are lost (``drop_out``) or CPUs busy (``slowdown_probability``), a learner's model
    does not arrive, or it sends what was ready after as many updates as time allowed. Every cycle
    takes T, whoever answers in it. Who is lost has spent the energy of its updates and of sending
    them; who finishes no update that it had time for has computed until T, and sends nothing. With
    ``redundancy`` several learners train on the same samples, and one of them is enough. With
    ``corrupt_devices`` some learners' own samples have wrong labels, and nobody knows which: their
    training loss, which comes with their models at no cost, stays high.

    ## Action Space
    - ``actions="direct"`` (``TaskAllocation-v0``): ``Box(-1, 1, (K, 2))``. The first column ℓ
      shares the d samples out in proportion to exp(3ℓ), whole ones; -1 means none. The second goes
      linearly from no update to ``most_updates``, rounded.
    - ``actions="staleness"`` (``TaskAllocationStaleness-v0``): ``Discrete``, one of the ``caps`` c
      on the difference of any two τ_k, under which their mean is as large as it can be, (16).
    - ``actions="joint"`` (``JointTaskResource-v0``): ``Box(-1, 1, (K, 5))``. After the two columns
      of the direct actions: the band of K·``bandwidth_hz`` is shared, the same way in both
      directions, in proportion to exp(3ℓ); the transmit power goes from 30 dB below the largest up
      to that; the CPU's speed linearly from a twentieth of the full one up to that. A learner
      receives at the orchestrator's constant power density, and sends at w·log₂(1 + p·h/(N₀·w)) in
      its w Hz.

    An action beyond a learner's limits is projected: τ_k is lowered to what d_k (and the resources)
    allow, and in FL d_k to the learner's samples. ``info`` has ``lowered`` and ``left_out``.

    ## Observation Space
    A ``Dict`` of ``devices`` (K, F_d), the learners, and ``system`` (G,). Bounds are those of the
    default configuration. What is of the last cycle is 0 in the first one. Rates are those of the
    cycle that begins; with ``actions="joint"`` rate and costs are those at a fair share of the
    band, the largest power and the full speed. ``actions="staleness"`` adds to the system, for
    each cap c, the mean ``updates_c`` that it allows and ``work_c``, the same weighted by d_k.
    ``actions="joint"`` adds each learner's last ``band_share``, ``power_share`` and ``cpu_share``.

    ``devices``:

    {devices_table}

    ``system``:

    {system_table}

    ## Rewards
    What the field ``reward`` says:

    {rewards}

    The budget is that of cycles. Validation samples are never trained on; test accuracy is only
    reported.

    ## Starting State
    Each episode draws a split of the data, the learners' places, energy limits and drop-outs, the
    fading of all cycles (with ``fading="cycle"``, as ``channel`` says) and the untrained model.
    Speeds are the same in every episode, unless ``cpu_groups_hz`` is None.

    ## Episode End
    Terminates after ``cycles`` global cycles. The last ``info`` adds {final_scores},
    ``cycles_to_NN`` and ``seconds_to_NN`` (all of the budget where it was not reached), and the
    episode's ``mean_updates`` (over all cycles and learners, 0 where nothing arrived) and
    ``mean_staleness``.

    ## Information
    ``validation_accuracy``, ``accuracy_gain``, ``validation_loss``, ``loss_decrease``, ``cycles``,
    ``seconds`` and the learners' ``joules`` so far, ``cycle_j``, ``finish_s`` (when the last
    learner was ready), ``updates`` (mean of τ_k, 0 for what did not arrive),
    ``weighted_updates`` (of what arrived, by d_k), ``staleness`` (largest difference among what
    arrived), ``lowered`` (learners whose τ_k was lowered), ``left_out`` (learners without samples
    or updates), ``arrived``, ``samples`` (that were learned from, copies counted); with
    ``track_test`` also ``test_accuracy``.

    ## Arguments
    The fields of ``TaskAllocationConfig``, by name or as ``config=``.

    ## References
    Mohammad et al. 2020, arXiv:2012.00143, §2, §3 and Table 1, with eq. (8) corrected to
    κ·C_m·d_k·f_k², κ = 1e-28; P_d = 8 bits is not in the paper, and E_k⁰ is drawn once an episode.
    Sorour et al. 2020, arXiv:2007.07453, on task adaptation, joint task and resource optimisation,
    and risk mitigation. Equations above are those of the first.

    ## Version History
    - v0: first version.
    """

    problem_type = TaskAllocation


class TaskAllocationVectorEnv(EdgeVectorEnv):
    """Many lanes of ``TaskAllocationEnv`` at a time; lane i seeded s + i equals it."""

    problem_type = TaskAllocation
