"""compile=true: equal losses and gradients, and the fallback to eager mode."""

import re
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from lic_train.recipes import losses
from lic_train.training.compilation import BiasApart, compiled
from tests.test_codecs import photograph


def step(network, model, x):
    """Return loss and gradients of one training step with the noise of seed 0."""
    torch.manual_seed(0)
    out = network(x)
    loss = losses.bpp(out, x) + 100 * losses.mse(out, x)
    model.zero_grad()
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_separate_bias_equals_the_transposed_convolution():
    torch.manual_seed(0)
    x, weight, bias = (torch.randn(*size, requires_grad=True) for size in ((2, 4, 5, 6), (4, 3, 5, 5), (3,)))
    together = F.conv_transpose2d(x, weight, bias, 2, 2, 1)
    with BiasApart():
        apart = F.conv_transpose2d(x, weight, bias, 2, 2, 1)
        without = F.conv_transpose2d(x, weight, None, 2, 2, 1)
    torch.testing.assert_close(apart, together)
    torch.testing.assert_close(without + bias.view(1, -1, 1, 1), together)
    upstream = torch.randn_like(together)
    gradients = [torch.autograd.grad(y, (x, weight, bias), upstream) for y in (together, apart)]
    torch.testing.assert_close(*gradients)


def test_compiled_training_equals_eager_training(small_codec, seeded_on_one_thread, capsys):
    model, x = small_codec("bmshj2018_factorized").train(), photograph(64, 64)[None]
    network = compiled(model)
    loss, gradients = step(network, model, x)
    assert re.match(r"compile=true: the first forward pass, with compilation, took \d+ s\n", capsys.readouterr().out)
    step(network, model, x)
    assert capsys.readouterr().out == ""  # printed once
    expected_loss, expected = step(model, model, x)
    assert abs(loss / expected_loss - 1) < 1e-5
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        assert (gradient - expected[name]).norm() <= 1e-3 * expected[name].norm() + 1e-7, name


def test_levels_of_a_variable_rate_change_without_compiling_again(small_codec, seeded_on_one_thread, capsys):
    model = small_codec("bmshj2018_factorized").train()
    model.vary_rate([0.01, 0.04])
    network, x = compiled(model), torch.stack([photograph(64, 64), photograph(64, 64).flip(2)])
    graphs = []
    for levels in ([0, 1], [1, 0], [1, 1]):
        with model.at_level(torch.tensor(levels)):
            loss, gradients = step(network, model, x)
            graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
            expected_loss, expected = step(model, model, x)
        assert abs(loss / expected_loss - 1) < 1e-5
        for name, gradient in gradients.items():
            assert (gradient - expected[name]).norm() <= 1e-3 * expected[name].norm() + 1e-7, name
    assert graphs[0] == graphs[2]
    assert "continues in eager mode" not in capsys.readouterr().out


@pytest.mark.parametrize(("device", "mode"), [("cpu", None), ("cuda", "max-autotune-no-cudagraphs")])
def test_kernels_are_autotuned_on_a_gpu(monkeypatch, device, mode):
    options = []
    monkeypatch.setattr(torch, "compile", lambda forward, **more: options.append(more) or (lambda x: {}))
    network = compiled(None)
    for _ in range(2):
        network(SimpleNamespace(device=torch.device(device)))
    assert options == [{"dynamic": False, "mode": mode}]


def test_failed_compilation_falls_back_to_eager(small_codec, monkeypatch, capsys):
    def refuse(*_, **__):
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: refuse)
    model, x = small_codec("bmshj2018_factorized").train(), photograph(64, 64)[None]
    network = compiled(model)
    first = step(network, model, x)[0]
    assert first == step(model, model, x)[0]
    printed = capsys.readouterr().out
    assert "training continues in eager mode" in printed
    assert "no C++ compiler" in printed
    step(network, model, x)
    assert capsys.readouterr().out == ""  # printed once
