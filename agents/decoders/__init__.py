"""Decoders: what makes actions of an agent's scores, a file for each problem."""

from edge_gym.agents.decoders.base import DECODERS, Decoder, make_decoder, register_decoder

__all__ = ["DECODERS", "Decoder", "make_decoder", "register_decoder"]
