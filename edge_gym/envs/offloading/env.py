"""The Gymnasium environments of offloading."""

from __future__ import annotations

from edge_gym.core.env import EdgeEnv
from edge_gym.core.vector_env import EdgeVectorEnv
from edge_gym.envs.offloading.dynamics import OffloadingProblem


class OffloadingEnv(EdgeEnv):
    """What is offloaded of each user's inference, and who gets which band, as a model is trained?

    ## Description
    M users train a model with an edge server over N iterations. In each of them every user trains
    the model that it downloaded last on its own images, for τ^lt seconds, and uploads it; the
    server averages what it gets and all users download the result, over one band that uplinks and
    downlinks share. In the last iteration, or in every ``period``-th one, inference tasks arrive:
    user j has L_j bits of images to be classified by the new model. It offloads a part ι_j to the
    server, and computes the rest itself once it has downloaded the model. Whoever offloads all
    (ι_j = 1) does not download the model, a_j = 0, and trains the next time from the one that it
    has, which is old by then. Training and inference are real.

    Times and energies follow (1) to (9): uploads and offloading one after the other at r_j, the
    download at r̄_j, computing at f_j and at the server at f_s. The WSEL (10a) is the sum of
    w^e·E_j + w^t·T_j over users.

    A user's CPU and its uplink do one thing at a time. Li et al. have tasks in the last iteration
    alone; tasks in earlier ones hold up what follows. The next training begins when the download
    has come and the CPU has inferred; the next update is sent when that training is over and the
    uplink has sent the task. T_j counts from the beginning of the training, as (9) does, which
    leaves out the last download: the seconds of an inference count in the T_j of its own iteration,
    and in the next one for those who wait for the update that it delays.

    Not simulated: the server has a processor of f_s for each task, as in the paper, so that tasks
    never wait for each other there; it averages in no time. A transmission keeps the share of the
    band that it began with, while others have those of the next iteration already, so that shares
    may sum to more than one for a while. The model takes time and energy in both directions, but
    for the first download (``first_download_s``), which only delays the first training. What the
    server is told of channels and tasks, its decisions, and the results of inference take nothing.

    ## Action Space
    - ``actions="direct"`` (``Offloading-v0``): ``Box(-1, 1, (M, 4))``. The first two columns share
      the band among all uplinks and downlinks in proportion to exp(4ℓ); the third is the CPU's
      frequency, linearly from a twentieth of f_max up to that; the fourth is ι_j, linearly, with 0
      and 1 a little before the ends. A user that downloads nothing has no downlink.
    - ``actions="combination"`` (``OffloadingDiscrete-v0``): ``Discrete(6^M)``, every ι_j on the
      grid of 0.2, the last user's counting least; band and frequencies are optimal for these.
    - ``actions="grid"`` (``OffloadingGrid-v0``): ``MultiDiscrete([6] * M)``, every ι_j on the
      grid of 0.2, for any M; band and frequencies are optimal for these.

    Where there is no task, as in every second iteration of the default, ι_j counts for nothing and
    users download. Direct actions still share the band then. With the others there is nothing to
    decide: ``action_masks()`` leaves only the action 0, to offload nothing, which is taken for any
    other one; ``info["projected"]`` is then 1. Else every action is possible.

    ## Observation Space
    A ``Dict`` of ``devices`` (M, F_d), the users, and ``system`` (G,). Bounds are those of the
    default configuration. Channels and tasks are those of the iteration that begins.

    ``devices``:

    {devices_table}

    ``system``:

    {system_table}

    ## Rewards
    Minus the iteration's WSEL, plus ``accuracy_weight`` times what the field ``reward`` says:

    {rewards}

    The budget is that of iterations. The return is thus ``accuracy_weight`` times that sum, minus
    the episode's WSEL. Validation samples are never trained on; inference is on test images, and
    its accuracy only reported.

    ## Starting State
    Each episode draws a split of the data and which user holds what, the users' places, channels
    (which fade as ``channel`` says) and tasks, and the untrained model, which all users have.

    ## Episode End
    Terminates after ``iterations``. The last ``info`` adds {final_scores}, ``iterations_to_NN``
    (all of them where it was not reached), ``total_wsel``, ``total_j`` of all users, ``total_s``
    (mean latency of users, summed), ``mean_inference_accuracy`` and ``mean_offloaded`` over the
    iterations with tasks, and ``mean_staleness`` of the users' models over all.

    ## Information
    ``validation_accuracy``, ``accuracy_gain``, ``validation_loss``, ``loss_decrease``,
    ``iterations``, ``wsel``, ``energy_j`` of all users, their mean ``latency_s``, ``model_ready_s``
    (τ̂), mean ``upload_s``, ``offload_s``, ``download_s``, ``local_s`` and ``edge_s``, the sums
    ``upload_j``, ``offload_j``, ``download_j`` and ``local_j``, ``tasks`` (users with one),
    ``offloaded`` (mean ι_j of these), ``inference_accuracy`` (of the last tasks; 0 before there
    were any), ``downloads`` and ``staleness`` (mean age of the users' models); with
    ``track_test`` also ``test_accuracy``, and unless actions are direct ``projected``.

    ## Arguments
    The fields of ``OffloadingConfig``, by name or as ``config=``.

    ## References
    Li et al. 2021, doi:10.1109/LWC.2020.3036852, §II to §IV and Table I, whose equations are meant
    above; p^md is a power in watts, and eq. (11) has D_m in place of D_s.

    ## Version History
    - v0: first version.
    """

    problem_type = OffloadingProblem


class OffloadingVectorEnv(EdgeVectorEnv):
    """Many lanes of ``OffloadingEnv`` at a time; lane i seeded s + i equals it."""

    problem_type = OffloadingProblem
