"""Data sets, splits into pool, validation and test, and partitions over devices."""

from edge_gym.data.datasets import DATASETS, Dataset, load_dataset, register_dataset
from edge_gym.data.errors import DataError, SampleError
from edge_gym.data.features import Features, load_features
from edge_gym.data.files import data_dir
from edge_gym.data.labels import decode_labels, draw_wrong_labels, encode_labels
from edge_gym.data.partitions import (
    SCHEMES,
    check_partition,
    order_by_class,
    order_long_tailed,
    partition,
    partition_dirichlet,
    partition_iid,
    partition_shards,
)
from edge_gym.data.splits import Split, always_pooled, check_split, draw_balanced, draw_split

__all__ = [
    "DATASETS",
    "SCHEMES",
    "DataError",
    "Dataset",
    "Features",
    "SampleError",
    "Split",
    "always_pooled",
    "check_partition",
    "check_split",
    "data_dir",
    "decode_labels",
    "draw_balanced",
    "draw_split",
    "draw_wrong_labels",
    "encode_labels",
    "load_dataset",
    "load_features",
    "order_by_class",
    "order_long_tailed",
    "partition",
    "partition_dirichlet",
    "partition_iid",
    "partition_shards",
    "register_dataset",
]
