"""The Gymnasium environments of the data scheduling problem."""

from __future__ import annotations

from edge_gym.core.env import EdgeEnv
from edge_gym.core.vector_env import EdgeVectorEnv
from edge_gym.envs.data_scheduling.dynamics import DataScheduling


class DataSchedulingEnv(EdgeEnv):
    """Which device's sample shall be uploaded next, so that the server learns most?

    ## Description
    K devices hold buffers of N samples each and share a channel to the server. In every block the
    server broadcasts its classifier, devices evaluate their samples with it, and one device
    uploads one sample by analog modulation over its fading channel, SNR γ = γ̄_k·|h|², |h|² ~
    Exp(1) unless ``channel`` names another model: the server receives x̂ = x + n, n ~ N(0, I/γ),
    and the label. The classifier is then really trained on all that was acquired. A good channel
    carries a clean sample, an important sample teaches more: the scheduler trades the one against
    the other. With ``uploads_per_block`` M > 1, M devices upload at a time (OFDMA), and samples
    that are alike teach the same thing twice.

    γ is E‖x‖² = 1 over the noise of one of the d dimensions; the SNR of a symbol is γ/d, so 15 dB
    are -7.9 dB a symbol at 14×14, and both are observed. The broadcast of the classifier and the
    devices' reports on their samples take no time and arrive without error, as in Wen et al.
    2019 §4: a block is what one upload takes.

    ## Action Space
    - ``actions="sample"`` (``DataScheduling-v0``): ``Discrete(K·N)``; k·N + n lets device k upload
      its sample n.
    - ``actions="device"`` (``DataSchedulingDevice-v0``): ``Discrete(K)``; the device uploads the
      sample of the largest loss where it knows the labels, else (and where no sample has a loss)
      its most uncertain one.
    - ``actions="scores"`` (``DataSchedulingBatch-v0``): ``Box(-1, 1, (K,))``; the M devices of
      the largest scores upload, by the same rule.

    With M > 1, discrete actions choose the devices of a block one after the other, in M steps, of
    which the last uploads all (``DataSchedulingBatchDiscrete-v0``). Where buffers are not refilled
    or devices are chosen in turns, ``action_masks()`` tells what is possible; what is not is
    replaced with the best channel among the possible devices, and ``info["projected"]`` is 1.

    ## Observation Space
    A ``Dict`` of ``devices`` (K, F_d), ``samples`` (K, N, F_s) and ``system`` (G,). With
    ``labels="server"`` the columns ``margin``, ``hinge_loss``, ``zero_one_loss``,
    ``label_share`` and ``label_recall`` are absent. Networks observe ``entropy`` in the place of
    ``distance`` and ``cross_entropy`` in that of ``hinge_loss``, and no ``weight_norm``. With
    M > 1, ``devices`` adds 16 columns ``embedding_0``.. of the sample that each would upload, and
    ``chosen`` where devices are chosen in turns. ``content=False`` hides what a sample shows.
    Bounds are those of the default configuration.

    ``devices``:

    {devices_table}

    ``samples``:

    {samples_table}

    ``system``:

    {system_table}

    ## Rewards
    What the field ``reward`` says:

    {rewards}

    The budget is that of uploads. There is no gain at steps at which the classifier is not trained.
    Validation samples are drawn from the training set and never learned from; test accuracy is only
    reported.

    ## Starting State
    Each episode draws a split of the data (every second training row is never validated on:
    principal axes are computed from these), ``initial_samples`` noiseless samples (classes
    balanced) that the classifier is trained on, which device holds what, their positions, and the
    fading of all blocks.

    ## Episode End
    Terminates after ``budget`` uploads. The last ``info`` adds {final_scores}, ``uploads_to_NN``
    (all of the budget where it was not reached), and ``fairness`` (Jain's index of the devices'
    uploads), with ``corrupt_devices`` also ``corrupt_uploads``, how many came from such devices.
    There is no truncation.

    ## Information
    ``validation_accuracy``, ``accuracy_gain``, ``validation_loss``, ``loss_decrease``,
    ``samples``, ``trained``, ``uploads`` (so far), ``uploaded`` (in this step), their mean
    ``uploaded_snr_db`` (0 if there were none), ``projected``; with ``track_test`` also
    ``test_accuracy``.

    ## Arguments
    The fields of ``DataSchedulingConfig``, by name or as ``config=``.

    ## References
    Wen et al. 2019, "An Overview of Data-Importance Aware Radio Resource Management for Edge
    Machine Learning", §4 (arXiv:1911.03878). Noise is n ~ N(0, I/γ) with features scaled to
    E‖x‖² = 1. ``novelty`` is the information gain of a linear
    model (D-optimal design) in the 16 first principal components, in which a noisy sample counts by
    what the channel left of it: see ``learning.importance``.

    ## Version History
    - v0: first version.
    """

    problem_type = DataScheduling


class DataSchedulingVectorEnv(EdgeVectorEnv):
    """Many lanes of ``DataSchedulingEnv`` at a time; lane i seeded s + i equals it."""

    problem_type = DataScheduling
