"""Graph attention compared with its literal form, a vector of 2M for every pair of nodes."""

import pytest
import torch
import torch.nn.functional as F

from lic_train.layers import graph_attention
from lic_train.layers.graph_attention import GraphAttention, GraphLayer


def naive_graph_attention(graph: GraphAttention, x: torch.Tensor) -> torch.Tensor:
    """Section 3.3 as written: picture by picture, with one vector of 2M for every pair of nodes."""
    out = []
    for features in x.flatten(2).mT:
        products = features @ features.T
        if graph.adjacency == "rownorm":
            products = products / (products.sum(dim=1, keepdim=True) + 1e-10)
        edges = products > 0
        if graph.adjacency == "sign":
            edges |= torch.eye(len(features), dtype=torch.bool)
        if graph.adjacency == "full":
            edges = torch.ones_like(edges)
        for layer in graph.layers:
            hidden = features @ layer.weight
            n, M = hidden.shape
            pairs = torch.cat([hidden[:, None].expand(n, n, M), hidden[None].expand(n, n, M)], dim=2)
            scores = F.leaky_relu(pairs @ layer.attention.flatten(), 0.2)
            alpha = torch.where(edges, scores, -9e15).softmax(dim=1)
            features = F.relu(F.elu(alpha @ hidden))
        out.append(features.T.reshape(x.shape[1:]))
    return torch.stack(out)


@pytest.mark.parametrize("adjacency", ["sign", "rownorm", "full"])
def test_graph_attention_equals_the_n_by_n_by_2m_form(adjacency, monkeypatch) -> None:
    torch.manual_seed(0)
    graph, x = GraphAttention(10, adjacency).eval(), torch.randn(2, 10, 5, 4)
    x[0, :, 0, 0] = 0  # a node without any positive product
    rows = x.flatten(2).mT @ x.flatten(2)
    assert (rows.sum(dim=2) < 0).any()  # a row that rownorm inverts
    with torch.no_grad():
        whole = graph(x)
        monkeypatch.setattr(graph_attention, "GRAPH_ROWS", 7)
        torch.testing.assert_close(graph(x), whole, rtol=0, atol=1e-6)
        torch.testing.assert_close(whole, naive_graph_attention(graph, x), rtol=0, atol=1e-5)
    assert (whole >= 0).all()


def test_graph_attention_drops_coefficients_only_in_training() -> None:
    torch.manual_seed(0)
    layer, nodes = GraphLayer(4), torch.randn(1, 30, 4)
    edges = torch.ones(1, 30, 30, dtype=torch.bool)
    dropped = layer.train()._coefficients(torch.zeros(1, 30, 30), edges)
    assert (dropped == 0).float().mean() == pytest.approx(0.6, abs=0.08)
    layer.eval()
    assert torch.equal(layer(nodes, edges), layer(nodes, edges))
