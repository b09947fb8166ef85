"""The Gymnasium environments of the retransmission problem."""

from __future__ import annotations

from edge_gym.core.env import EdgeEnv
from edge_gym.core.vector_env import EdgeVectorEnv
from edge_gym.envs.retransmission.dynamics import Retransmission


class RetransmissionEnv(EdgeEnv):
    """Is a received sample good enough to learn from, or should it be sent again?

    ## Description
    A device sends a training sample to the server by analog modulation over a fading channel; its
    label arrives without noise. The server combines all receptions of the sample by maximal-ratio
    combining, so the i-th one at SNR γᵢ = γ̄·|hᵢ|² adds γᵢ to the effective SNR; |hᵢ|² ~ Exp(1)
    unless ``channel`` names another model.
    It either accepts what it has combined into its training set or requests the sample again.
    The budget of channel uses is limited: many noisy samples or few clean ones, and for which
    samples is it worth the wait? The classifier is trained for real on everything accepted.

    γ is E‖x‖² = 1 over the noise of one of the d dimensions; the SNR of a symbol is γ/d, so 5 dB
    are -17.9 dB a symbol at 14×14, and both are observed. A channel use is the transmission of a
    whole sample. The request for another one takes no time, as in Wen et al. 2019 §3.2.

    ## Action Space
    ``Discrete(2)``: 0 accepts the received sample, and the next one is sent; 1 requests it again.
    When the budget is spent the last sample is accepted whatever the action; ``action_masks()``
    then forbids 1, and ``info["projected"]`` is 1 if it was taken nevertheless.

    ## Observation Space
    A ``Box`` with these columns, bounds in the default configuration; networks observe
    ``entropy`` in the place of ``distance``:

    {observation_table}

    ## Rewards
    What the field ``reward`` says:

    {rewards}

    The budget is that of channel uses. The classifier is trained after every ``retrain_every``
    accepted samples and on what is left at the end; there is no gain at other steps. Validation
    samples are drawn from the training set and never learned from; test accuracy is only
    reported.

    ## Starting State
    Each episode draws a split of the data, ``initial_samples`` noiseless samples (classes
    balanced) that the classifier is trained on, the devices' buffers, the order in which devices
    and their samples come, and the fading. One channel use has been made: the first sample has
    arrived once.

    ## Episode End
    Terminates after ``budget`` steps, one per channel use. The last ``info`` adds {final_scores},
    ``channel_uses_to_NN`` (all of the budget where it was not reached). There is no truncation.

    ## Information
    ``validation_accuracy``, ``accuracy_gain``, ``validation_loss``, ``loss_decrease``,
    ``samples``, ``channel_uses``, ``accepted``, ``trained``, ``projected``; with ``track_test``
    also ``test_accuracy``.

    ## Arguments
    The fields of ``RetransmissionConfig``, by name or as ``config=``.

    ## References
    Wen et al. 2019, "An Overview of Data-Importance Aware Radio Resource Management for Edge
    Machine Learning", §3.2, Protocols 1 and 2 (arXiv:1911.03878). Noise is n ~ N(0, I/γ) with
    features scaled to E‖x‖² = 1.

    ## Version History
    - v0: first version.
    """

    problem_type = Retransmission


class RetransmissionVectorEnv(EdgeVectorEnv):
    """Many lanes of ``RetransmissionEnv`` at a time; lane i seeded s + i equals it."""

    problem_type = Retransmission
