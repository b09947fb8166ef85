"""The environments of batches and time slots, and their contract."""

from __future__ import annotations

from edge_gym.core.env import EdgeEnv
from edge_gym.core.vector_env import EdgeVectorEnv
from edge_gym.envs.batch_slot.dynamics import BatchSlot


class BatchSlotEnv(EdgeEnv):
    """How large a batch shall each device learn from, and who gets which slots, in this round?

    ## Description
    In every communication round each device computes the gradient on B_k samples of its own and
    sends it, compressed, in its time slots τ_k^U of the uplink's frames. The server averages, with
    weights B_k, and sends the average to each device in its slots τ_k^D of the downlink's frames;
    all take one step of gradient descent. The gradients are really computed and compressed.
    Devices keep different values, so that their average has more of them than any device sent:
    the server compresses it in its turn, and what is paid for and learned from is that message
    (``download="recompressed"``; ``"union"`` sends the average whole, at its own size).
    Larger batches make steps better, but a round lasts until the slowest device has sent, and
    then until the slowest one has received and updated its model:

    T = max_k (t_k^L + t_k^U) + max_k (t_k^D + t_k^M), with t_k^U = s/R_k^U/τ_k^U and
    t_k^D = s/R_k^D/τ_k^D for slots as shares of their frame and s bits of a compressed gradient.
    The download is one message for each device, which is the paper's; its footnote 3 names a
    broadcast at the smallest of the rates as another. Devices have the untrained model at the
    start. Channel states, losses, norms and what is decided are a few numbers and take no time.
    Links fade as ``channel`` says, up and down by themselves, anew in each round or, with
    ``fading="mean"``, so fast that rates are averages.

    - ``device="cpu"``: t_k^L = B_k·C/f_k, with the cycles C of ``cycles_per_flop`` times the FLOPs
      of training on one sample; t_k^M takes two FLOPs for each parameter.
    - ``device="gpu"``: t_k^L = t^ℓ up to B^th samples and c_k seconds for each further one, (27).

    The step size is ``learning_rate``·√(B/``reference_batch``) with B = ΣB_k, at most
    ``max_learning_rate``. With error feedback, what a compressed message leaves out is added to
    the sender's next one, a device's as the server's (Tang et al. 2019).

    With ``update="model"`` devices train copies of the model on their batch, for ``local_epochs``
    in mini-batches, and models are averaged. ``max_batch=None`` allows batches of all samples:
    with these two fields the paper's benchmarks are the same environment with full batches.

    ## Action Space
    - ``actions="direct"`` (``BatchSlot-v0``): ``Box(-1, 1, (K, 3))``. The first column goes
      linearly from a batch of 1 to the device's largest one, rounded (latency is linear in the
      batch, and uniform actions are the paper's random batches); the others share the frames,
      uplink's and downlink's, in proportion to exp(3ℓ).
    - ``actions="global"`` (``BatchSlotGlobal-v0``): ``Discrete(choices)``, the global batchsize B
      from a geometric row, K·(ΣB_max/K)^(i/(``choices`` - 1)) rounded; Theorems 1 and 2 place
      whole batches and slots.

    Every action is possible: B_k lies in [1, min(B_max, the device's samples)], slots sum to one.

    ## Observation Space
    A ``Dict`` of ``devices`` (K, F_d) and ``system`` (G,). Bounds are those of the default
    configuration. What is of the last round is 0 in the first one. Rates are those of the round
    that begins.

    ``devices``:

    {devices_table}

    ``system``:

    {system_table}

    ## Rewards
    What the field ``reward`` says:

    {rewards}

    The budget is ``budget_s``. Validation samples are never trained on; test accuracy is only
    reported.

    ## Starting State
    Each episode draws a split of the data and which device holds what, the devices' places, the
    fading of all rounds and the untrained model. Speeds are the same in every episode, unless
    ``cpu_groups_hz`` is None.

    ## Episode End
    Terminates when ``budget_s`` simulated seconds are spent; a round that would need more than is
    left is lost. Truncated after ``max_rounds``. The last ``info`` adds {final_scores},
    ``seconds_to_NN`` (``budget_s`` where it was not reached, so that the mean is that of the time
    within the budget), ``mean_batch`` (mean global batchsize) and ``mean_efficiency`` (loss
    decrease a second over the episode).

    ## Information
    ``validation_accuracy``, ``accuracy_gain``, ``validation_loss``, ``loss_decrease``,
    ``rounds``, ``seconds`` so far, ``round_s``, its two parts ``gradient_s`` (until all have
    sent) and ``update_s``, the longest ``compute_s``, ``upload_s`` and ``download_s`` of a
    device, ``batch`` (B), ``learning_rate``, ``learning_efficiency`` (loss decrease over
    ``round_s``, eq. (16)) and ``in_time``, 0 of a round that was lost, whose parts are what they
    would have been; with ``track_test`` also ``test_accuracy``.

    ## Arguments
    The fields of ``BatchSlotConfig``, by name or as ``config=``.

    ## References
    Ren et al. 2021, §II to §VI and Table I. C, M, t^ℓ, B^th, c_k, f^G and η are not in the text
    and chosen here. The text takes the global gradient to have as many bits as a local one and
    does not say how an average of sparse ones comes to that.

    ## Version History
    - v0: first version.
    """

    problem_type = BatchSlot


class BatchSlotVectorEnv(EdgeVectorEnv):
    """Many lanes of ``BatchSlotEnv`` at a time; lane i seeded s + i equals it."""

    problem_type = BatchSlot
