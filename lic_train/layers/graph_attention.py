"""Graph attention over the positions of a feature map (Velickovic et al., ICLR 2018, as used by Tang et al. 2023).

Legend: B batch, h w map, n = h * w nodes, M channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lic_train.entropy.decisions import is_positive
from lic_train.entropy.noise import uniform

ADJACENCIES = ("sign", "rownorm", "full")
DROPOUT = 0.6
# Rows of the attention matrix per step. Limits the memory for large pictures; training crops need a single step.
GRAPH_ROWS = 1024


class GraphLayer(nn.Module):
    """One head of graph attention (Velickovic et al. 2018) over given edges, with dropout 0.6 on the coefficients."""

    def __init__(self, M: int) -> None:
        super().__init__()
        self.weight, self.attention = nn.Parameter(torch.empty(M, M)), nn.Parameter(torch.empty(2, M))
        nn.init.xavier_uniform_(self.weight, gain=1.414)
        # Xavier initialisation of the paper's 2M x 1 matrix, which these two vectors form.
        bound = 1.414 * (6 / (2 * M + 1)) ** 0.5
        nn.init.uniform_(self.attention, -bound, bound)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        """Map nodes (B, n, M) with edges (B, n, n) bool to (B, n, M).

        The score of an edge i -> j is ``LeakyReLU(a1.Wh_i + a2.Wh_j)``, so two numbers per node are sufficient.
        """
        hidden = nodes @ self.weight
        own, other = (hidden @ self.attention.mT).split(1, dim=2)
        parts = zip(own.split(GRAPH_ROWS, dim=1), edges.split(GRAPH_ROWS, dim=1), strict=True)
        return torch.cat([self._coefficients(row + other.mT, edge) @ hidden for row, edge in parts], dim=1)

    def _coefficients(self, scores: Tensor, edges: Tensor) -> Tensor:
        """Softmax of (B, rows, n) over the neighbours; uniform over all nodes for one without any, as in the code."""
        scores = F.leaky_relu(scores, 0.2).masked_fill(~edges, -9e15)
        coefficients = scores.softmax(dim=2)
        return coefficients * (uniform(scores) >= DROPOUT) / (1 - DROPOUT) if self.training else coefficients


class GraphAttention(nn.Module):
    """GAT2: two layers over the positions of a map, with edges between positions of similar features."""

    def __init__(self, M: int, adjacency: str) -> None:
        super().__init__()
        self.adjacency = adjacency
        self.layers = nn.ModuleList([GraphLayer(M), GraphLayer(M)])

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, M, h, w) to (B, M, h, w), at least 0."""
        nodes = x.flatten(2).mT
        edges = self.edges(nodes)
        for layer in self.layers:
            nodes = F.relu(layer(nodes, edges))
        return nodes.mT.reshape(x.shape)

    @torch.no_grad()
    def edges(self, nodes: Tensor) -> Tensor:
        """Return the edges between nodes (B, n, M) as (B, n, n) bool."""
        parts = [self._linked(rows, nodes) for rows in nodes.split(GRAPH_ROWS, dim=1)]
        edges = torch.cat(parts, dim=1)
        if self.adjacency == "sign":
            edges.diagonal(dim1=1, dim2=2).fill_(True)
        return edges

    def _linked(self, rows: Tensor, nodes: Tensor) -> Tensor:
        """Return the edges (B, rows, n) from a part of the nodes (B, rows, M) to all nodes (B, n, M)."""
        products = rows @ nodes.mT
        if self.adjacency == "full":
            return torch.ones_like(products, dtype=torch.bool)
        if self.adjacency == "rownorm":
            sums, sizes = products.sum(dim=2, keepdim=True), products.abs().sum(dim=2, keepdim=True)
            products = torch.where(is_positive(sums + 1e-10, sizes + 1e-10), products, -products)
        return is_positive(products, rows.norm(dim=2).unsqueeze(2) * nodes.norm(dim=2).unsqueeze(1))
