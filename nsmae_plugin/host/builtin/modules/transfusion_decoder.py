"""The layers of TransFusion's head: position embedding, one decoder layer, prediction branches.

Parameter names and shapes are OpenPCDet's. P is the number of queries, K that of BEV cells.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from nsmae_plugin.ops.conv_block import with_norm
from nsmae_plugin.ops.heatmap import RARE

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"relu": F.relu, "gelu": F.gelu}
BRANCH_WIDTH = 64


class PositionEmbedding(nn.Module):
    """Learned embedding of positions (B, N, 2), in cells, as (B, N, channels)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.position_embedding_head = nn.Sequential(
            *with_norm(nn.Conv1d(2, channels, kernel_size=1), nn.BatchNorm1d),
            nn.Conv1d(channels, channels, kernel_size=1),
        )

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        return self.position_embedding_head(positions.transpose(1, 2)).transpose(1, 2)


class DecoderLayer(nn.Module):
    """Self-attention among queries, cross-attention to the BEV map, and a feed-forward network.

    Each is followed by a residual sum and a LayerNorm. Positions are embedded and added to queries,
    keys and, unlike in DETR, values.
    """

    def __init__(
        self, channels: int, heads: int, ffn_channels: int, dropout: float, activation: str
    ) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.self_attn = nn.MultiheadAttention(channels, heads, dropout, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(channels, heads, dropout, batch_first=True)
        self.linear1 = nn.Linear(channels, ffn_channels)
        self.linear2 = nn.Linear(ffn_channels, channels)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(channels) for _ in range(3))
        self.dropout = nn.Dropout(dropout)
        self.self_posembed = PositionEmbedding(channels)
        self.cross_posembed = PositionEmbedding(channels)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        query_positions: torch.Tensor,
        key_positions: torch.Tensor,
    ) -> torch.Tensor:
        """Refined queries (B, C, P).

        Args:
            queries: (B, C, P). keys: (B, C, K).
            query_positions, key_positions: (B, P, 2) and (B, K, 2), in cells.
        """
        where = self.self_posembed(query_positions)
        x = queries.transpose(1, 2)
        x = self.norm1(x + self._attend(self.self_attn, x + where, x + where))
        memory = keys.transpose(1, 2) + self.cross_posembed(key_positions)
        x = self.norm2(x + self._attend(self.multihead_attn, x + where, memory))
        hidden = self.dropout(self.activation(self.linear1(x)))
        return self.norm3(x + self.dropout(self.linear2(hidden))).transpose(1, 2)

    def _attend(
        self, attention: nn.MultiheadAttention, query: torch.Tensor, memory: torch.Tensor
    ) -> torch.Tensor:
        # Without the weights torch never builds the (B, heads, P, K) matrix where it can avoid it.
        return self.dropout(attention(query, memory, memory, need_weights=False)[0])


class SeparateHead(nn.Module):
    """One small network per predicted quantity, applied to each query by itself.

    Args:
        branches: name -> ``out_channels``, ``num_conv`` (layers, the last one without norm);
            ``heatmap`` holds the logits of the classes.
        use_bias: of the convolutions before a norm.
    """

    def __init__(
        self, channels: int, branches: Mapping[str, Mapping[str, Any]], use_bias: bool
    ) -> None:
        super().__init__()
        self.names = list(branches)
        for name, branch in branches.items():
            layers: list[nn.Module] = []
            width = channels
            for _ in range(branch["num_conv"] - 1):
                conv = nn.Conv1d(width, BRANCH_WIDTH, 1, bias=use_bias)
                layers.append(nn.Sequential(*with_norm(conv, nn.BatchNorm1d)))
                width = BRANCH_WIDTH
            last = nn.Conv1d(width, branch["out_channels"], 1)
            if name == "heatmap":
                nn.init.constant_(last.get_parameter("bias"), RARE)
            layers.append(last)
            self.add_module(name, nn.Sequential(*layers))

    def forward(self, queries: torch.Tensor) -> dict[str, torch.Tensor]:
        """(B, C, P) -> name -> (B, out_channels, P)."""
        return {name: self.get_submodule(name)(queries) for name in self.names}
