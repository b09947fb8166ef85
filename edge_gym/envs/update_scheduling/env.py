"""The environments of update scheduling, and their contract."""

from __future__ import annotations

from edge_gym.core.env import EdgeEnv
from edge_gym.core.vector_env import EdgeVectorEnv
from edge_gym.envs.update_scheduling.dynamics import UpdateScheduling


class UpdateSchedulingEnv(EdgeEnv):
    """Which devices shall upload their updates in this round, over a band that they share?

    ## Description
    Devices train a model together. In every round the server sends them the model, schedules some
    of them by what it knows, and averages what arrives with weights by sample counts. Devices
    differ in CPU speed, distance, data and luck: channels fade from round to round, some compute
    slowly now and then, updates may be lost. Every update is really computed on the device's own
    images.

    What the server knows, and what a round takes:

    - ``mode="importance"``, ``indicators="reported"`` (Wen et al. 2019 §5.2.1, steps 1 to 5): the
      model is broadcast to the devices that take part; each computes an update and reports its
      importance (the norm of its gradient, or of its model's variation) and its training loss in
      ``report_bits``, over equal parts of the band. After the last report the server decides; the
      scheduled ones then upload. All who take part spend energy on computing and reporting. Whoever
      is left out of a round does neither; of such a device the last report is observed, with its
      age.
    - ``indicators="remembered"``: the server decides first, by the indicators and losses that came
      with the last uploads that arrived (each upload carries ``report_bits`` more). Then the model
      is sent to the scheduled devices, which compute and upload.
    - ``indicators="free"``: an oracle that no server could have, to bound what knowledge is worth:
      all devices compute, and this round's indicators and computing times are known before. The
      round lasts until the slowest *scheduled* device has computed and uploaded.
    - ``mode="lazy"`` (Wen et al. 2019 §5.2.2): the model is broadcast to all devices, which report
      the model age ‖ŵ_k - w‖ from the model that they uploaded last. Only scheduled devices
      compute; training losses come with their uploads, in ``report_bits`` more. The budget is the
      devices' energy; elsewhere it is simulated seconds.

    Channels of the round are known when it is decided, and whether a device computes slowly is
    not before it has computed. The band is shared by what is known then: with
    ``bandwidth="finish"`` devices finish at the same time unless one computes slowly.

    Computing takes ``cycles_per_flop``·FLOPs/f_k seconds and κ·cycles·f_k² joules, with the FLOPs
    of the network that is really trained. An upload carries its parameters at ``bits`` each, or the
    largest of them (``density``), with error feedback. The broadcast carries all of the model at 32
    bits each, which is what devices train from, in the whole band at the rate of the weakest
    receiver (``downlink_power_dbm``, the uplink's fading).
    Links fade from round to round as ``channel`` says.

    A scheduled device that drops out (``drop_out``) has computed, does not answer, and leaves its
    part of the band to the others; the server waits for it until it should have been ready. An
    upload that is lost (``packet_error``) has taken its time and energy. ``redundancy`` lets
    several devices hold and compute the same samples.

    With ``corrupt_devices`` some devices train on wrong labels, and nobody knows which: their
    training loss stays high.

    Free of time and energy are: estimating channels, telling devices the schedule, computing model
    ages, receiving, and all that the server does but the time of its broadcast.

    ## Action Space
    - ``actions="scores"`` (``UpdateScheduling-v0``): all devices whose score is above 0 are
      scheduled, the one of the largest score where none is. With ``selection="top"`` it is the
      ``uploads_per_round`` devices of the largest scores. Devices that do not take part in the
      round have nothing to upload: their scores do not count. The space is ``Box(-1, 1, (K,))``,
      or ``Box(-1, 1, (K, columns))`` where each device has more than its score, in this order:
      with ``bandwidth="agent"`` ℓ, by which the band is shared in proportion to exp(4ℓ) (else so
      that all finish at the same time, or equally); with reported indicators and
      ``participation="agent"`` (the default) who takes part in the *next* round: devices above 0,
      the one of the largest value where none is. All take part in the first. Where an
      action has fewer columns, or is of shape (K,), the last ones are 1 (``action_fill``): all take
      part.
    - ``actions="device"`` (``UpdateSchedulingDiscrete-v0``): ``Discrete(K)``, one device a round;
      all take part.

    Every action is possible.

    ## Observation Space
    A ``Dict`` of ``devices`` (K, F_d) and ``system`` (G,). Bounds are those of the default
    configuration.

    ``devices``:

    {devices_table}

    ``system``:

    {system_table}

    ## Rewards
    What the field ``reward`` says:

    {rewards}

    The budget is ``budget_s`` or, with ``mode="lazy"``, ``budget_j``. Validation samples are never
    trained on; test accuracy is only reported.

    ## Starting State
    Each episode draws a split of the data and which device holds what, the devices' places, CPU
    speeds, packet errors and drop-outs, and the untrained model.

    ## Episode End
    Terminates when the budget is spent; a round that needs more than is left is broken off and
    lost. Truncated after ``max_rounds``. The last ``info`` adds {final_scores}, ``seconds_to_NN``
    or, with ``mode="lazy"``, ``joules_to_NN`` (all of the budget where it was not reached), and
    ``fairness`` (Jain's index of the devices' scheduled rounds); with
    ``corrupt_devices`` also ``corrupt_uploads``, in how many of these rounds such a device was
    scheduled, summed over devices.

    ## Information
    ``validation_accuracy``, ``accuracy_gain``, ``validation_loss``, ``loss_decrease``,
    ``rounds``, ``seconds`` and ``joules`` (of the devices) so far; of this round ``round_s`` and
    ``round_j``, all in all, of which ``broadcast_s`` for the broadcast and ``elapsed_s`` until the
    server decided, and how many devices were ``participants``, ``scheduled``, ``arrived``; with
    ``track_test`` also ``test_accuracy``.

    ## Arguments
    The fields of ``UpdateSchedulingConfig``, by name or as ``config=``.

    ## References
    - D. Wen, X. Li, Q. Zeng, J. Ren, K. Huang, "An Overview of Data-Importance Aware Radio Resource
      Management for Edge Machine Learning", 2019, arXiv:1911.03878, §5: indicators, scheduling,
      lazy updating, exclusion of stragglers.
    - J. Ren, G. Yu, G. Ding, "Accelerating DNN Training in Wireless Federated Edge Learning
      Systems", 2021, arXiv:1905.09712, Table I: the path loss 128.1 + 37.6·log₁₀(d in km) and the
      noise density.
    - S. Sorour, U. Mohammad, A. Abutuleb, H. Hassanein, "Returning the Favor: What Wireless
      Networking Can Offer to AI and Edge Learning", 2020, arXiv:2007.07453, on risk mitigation:
      losses, drop-outs, redundancy.

    ## Version History
    - v0: first version. After 0.1.0: indicators are reported before the server decides, the model
      is broadcast, actions say who takes part next, and a round that nobody answers is never free.
    """

    problem_type = UpdateScheduling


class UpdateSchedulingVectorEnv(EdgeVectorEnv):
    """Many lanes of ``UpdateSchedulingEnv`` at a time; lane i seeded s + i equals it."""

    problem_type = UpdateScheduling
