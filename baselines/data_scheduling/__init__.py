"""Rules of data scheduling: published ones, textbook scheduling, and those of this project.

Source: Wen et al. 2019, §4.
"""

from __future__ import annotations

from edge_gym.baselines.base import Baseline
from edge_gym.baselines.data_scheduling.channel import (
    ChannelAware,
    ChannelAwareLabelledSample,
    ChannelAwareSample,
)
from edge_gym.baselines.data_scheduling.information import FisherInformation, GlobalDiversity
from edge_gym.baselines.data_scheduling.loss import (
    HingeLoss,
    HingeLossSqrt,
    LossPower,
    SupportVectorProbability,
    ZeroOneLoss,
)
from edge_gym.baselines.data_scheduling.textbook import ProportionalFair, RoundRobin
from edge_gym.baselines.data_scheduling.uncertainty import (
    DataAware,
    ImportanceAware,
    ImportanceAwareEntropy,
)

RULES: tuple[type[Baseline], ...] = (
    RoundRobin,
    ProportionalFair,
    ChannelAware,
    ChannelAwareSample,
    ChannelAwareLabelledSample,
    DataAware,
    ImportanceAware,
    ImportanceAwareEntropy,
    ZeroOneLoss,
    HingeLoss,
    HingeLossSqrt,
    SupportVectorProbability,
    LossPower,
    FisherInformation,
    GlobalDiversity,
)
