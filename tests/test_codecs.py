"""Contract tests of every shipped model, at small widths."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from torch import nn

from lic_train.config.compose import compose
from lic_train.config.run import checked
from lic_train.errors import BitstreamError, CheckpointError
from lic_train.files import bitstream
from lic_train.models.base import Codec, build, joined
from lic_train.recipes import losses
from tests.conftest import SMALL, small_config

# Networks with attention, and those that predict a mixture, need smaller steps than the others.
LEARNING_RATE = {
    "cwam": 3e-4, "tinylic": 3e-4, "iblic": 3e-4, "iblic_tiny": 3e-4, "gcab_gmm": 1e-3, "tcm": 3e-4, "dcae": 3e-4,
    "stfpp": 1e-3, "qres_vae": 2e-2,
}  # fmt: skip

every_model = pytest.mark.parametrize("name", SMALL)


def photograph(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Return a smooth random picture (3, H, W): noise at three scales, so that all latents vary."""
    generator = torch.Generator().manual_seed(seed)
    picture = sum(
        torch.nn.functional.interpolate(torch.rand(1, 3, n, n, generator=generator), (height, width), mode="bilinear")
        for n in (3, 11, 40)
    )
    return (picture / 3)[0]


def parts(model: Codec, name: str) -> list[nn.Module]:
    """Return the submodules called ``name``, at any depth. Hierarchical models have one for each latent."""
    return [module for path, module in model.named_modules() if path.rpartition(".")[2] == name]


def quantised(model: Codec) -> list[nn.Module]:
    """Return the networks whose outputs are quantised."""
    found = [getattr(model, name) for name in ("g_a", "h_a") if hasattr(model, name)]
    return parts(model, "posterior") or found


def assert_same_picture(a: torch.Tensor, b: torch.Tensor, atol: float = 1e-5) -> None:
    """Assert equality up to float order; one wrong symbol changes a picture a thousand times more."""
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


@every_model
def test_forward_shapes_and_rate(name, small_codec):
    model = small_codec(name)
    x = torch.stack([photograph(128, 192, seed) for seed in range(2)])
    out = model.train()(x)
    assert out["x_hat"].shape == x.shape
    for likelihoods in out["likelihoods"].values():
        assert likelihoods.shape[0] == 2
        assert bool(((likelihoods >= 1e-9) & (likelihoods <= 1 + 1e-6)).all())
    assert 0 < losses.bpp(out, x).item() < 100


@every_model
def test_every_parameter_receives_a_gradient(name, small_codec):
    model = small_codec(name).train()
    x = photograph(64, 64)[None]
    out = model(x)
    (losses.bpp(out, x) + 100 * losses.mse(out, x)).backward()
    untouched = {id(p) for p in model.net_parameters() if p.grad is None}
    assert not [key for key, p in model.named_parameters() if id(p) in untouched]
    assert all(p.grad is None for p in model.aux_parameters())
    if not model.aux_parameters():
        return
    model.zero_grad()
    model.aux_loss().backward()
    assert all(bool(p.grad.any()) for p in model.aux_parameters())
    assert all(p.grad is None or not bool(p.grad.any()) for p in model.net_parameters())


@every_model
def test_training_overfits_one_batch(name):
    """With the recipe's own loss and clip, at a learning rate suitable for such a small network."""
    torch.manual_seed(0)
    recipe = checked(compose([f"model={name}"])).make_recipe()
    model, x = build(small_config(name)).train(), photograph(64, 64)[None]
    optimizer = torch.optim.Adam(model.net_parameters(), lr=LEARNING_RATE.get(name, 2e-3))
    history = []
    for step in range(8):
        torch.manual_seed(step)
        loss = recipe(model(x), x, 0)["loss"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.net_parameters(), recipe.clip_norm)
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.85 * history[0]


@every_model
def test_decompress_equals_the_evaluation_forward(name, small_codec):
    model = small_codec(name)
    x = photograph(128, 192)[None]
    with torch.no_grad(), model.ready_to_code():
        out = model(x)
        coded = model.compress(x)
        decoded = model.decompress(**coded)
    assert_same_picture(decoded["x_hat"], out["x_hat"].clamp(0, 1))
    estimate = losses.bpp(out, x).item() * 128 * 192 / 8
    real = sum(len(string) for string in coded["strings"])
    # 2 %, the constant cost of a section (a checksum and the coder's last word), and the outliers of an untrained
    # network, whose estimate is the likelihood's floor of 30 bits and whose escape code has 14 to 46.
    outliers = sum(int((likelihoods <= 1.001e-9).sum()) for likelihoods in out["likelihoods"].values())
    assert abs(real - estimate) < 0.02 * estimate + 12 * len(coded["strings"]) + 2 * outliers


@every_model
@pytest.mark.parametrize("size", [(97, 131), (1, 1), (7, 9), (1, 70), (70, 1)])
def test_pictures_of_any_size_round_trip_through_a_file(name, size, small_codec):
    model = small_codec(name)
    x = photograph(*size)
    with model.ready_to_code():
        data = bitstream.encode(model, x, fingerprint=b"01234567")
        again = bitstream.encode(model, x, fingerprint=b"01234567")
        x_hat = bitstream.decode(model, data, fingerprint=b"01234567")
    assert data == again
    assert x_hat.shape == x.shape
    assert bool(((x_hat >= 0) & (x_hat <= 1)).all())


@every_model
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_black_and_white_pictures_round_trip(name, value, small_codec):
    model = small_codec(name)
    x = torch.full((3, 64, 64), value)
    with model.ready_to_code(), torch.no_grad():
        x_hat = bitstream.decode(model, bitstream.encode(model, x, bytes(8)), bytes(8))
        expected = model(x[None])["x_hat"].clamp(0, 1)[0]
    assert_same_picture(x_hat, expected)


@every_model
def test_all_zero_latent_round_trips(name, small_codec):
    model = small_codec(name)
    with torch.no_grad():
        for parameter in model.g_a.parameters():
            parameter.zero_()
    x = photograph(64, 64)
    with model.ready_to_code(), torch.no_grad():
        x_hat = bitstream.decode(model, bitstream.encode(model, x, bytes(8)), bytes(8))
        assert_same_picture(x_hat, model(x[None])["x_hat"].clamp(0, 1)[0])


@every_model
def test_pictures_of_a_batch_are_decoded_as_one_by_one(name, small_codec):
    model = small_codec(name)
    pictures = [photograph(64, 64, seed) for seed in range(4)]
    with torch.no_grad(), model.ready_to_code():
        coded = [model.compress(x[None]) for x in pictures]
        single = torch.cat([model.decompress(**one)["x_hat"] for one in coded])
        batch = model.decompress(*joined(coded))["x_hat"]
    assert_same_picture(batch, single, atol=2e-4)  # attention of a batch sums in another order
    assert not torch.equal(single[0], single[1])


def test_pictures_of_different_sizes_are_no_batch(small_codec):
    model = small_codec("mbt2018_mean")
    with torch.no_grad(), model.ready_to_code():
        coded = [model.compress(photograph(64, width)[None]) for width in (64, 128)]
    with pytest.raises(ValueError, match="expected latents of one size"):
        joined(coded)


class Seen:
    """Stores the quantised latents: the inputs of g_s, or of the projection of each latent."""

    def __init__(self, model):
        self._latents = []
        for network in parts(model, "z_proj") or [model.g_s]:
            network.register_forward_pre_hook(lambda module, inputs: self._latents.append(inputs[0].flatten()))

    def take(self):
        """Return the latents since the last call, in one vector."""
        latents, self._latents = self._latents, []
        return torch.cat(latents)


@every_model
def test_latents_outside_every_table_round_trip(name, small_codec):
    """Such values are escape-coded: tables end below 2048, and only float32 limits a latent."""
    model = small_codec(name)
    outliers = torch.tensor([5e3, -5e3, 3e5, -3e5])

    def blow_up(module, inputs, latent):
        latent = latent.contiguous()
        latent.view(-1)[: len(outliers)] += outliers
        return latent

    for network in quantised(model):
        network.register_forward_hook(blow_up)
    x = photograph(64, 64)[None]
    with torch.no_grad(), model.ready_to_code():
        coded = model.compress(x)
        seen = Seen(model)
        model(x)
        expected = seen.take()
        model.decompress(**coded)
        decoded = seen.take()
    assert expected.abs().max() > 2e5
    assert torch.equal(decoded, expected)


@every_model
def test_weights_that_are_not_finite_raise(name, small_codec):
    model = small_codec(name).train()
    firsts = {part: next(iter(network.parameters()), None) for part, network in model.named_children()}
    for part, weight in ((part, weight) for part, weight in firsts.items() if weight is not None):
        before = weight.detach().clone()
        for value in (math.nan, math.inf):
            weight.data.view(-1)[0] = value
            message = rf"not finite(?s:.*)NaN or infinity in {part}\."
            with pytest.raises(CheckpointError, match=message), model.ready_to_code():
                pass
            assert model.training
        weight.data.copy_(before)


@every_model
@pytest.mark.parametrize("factor", [math.nan, 1e30])
def test_latent_that_is_not_finite_or_too_large_raises(name, factor, small_codec):
    model = small_codec(name)
    with model.ready_to_code():
        quantised(model)[0].register_forward_hook(lambda module, inputs, y: (y + 1) * factor)
        with pytest.raises(BitstreamError, match="not finite or beyond"):
            bitstream.encode(model, photograph(64, 64), bytes(8))


@every_model
def test_truncated_strings_raise(name, small_codec):
    model = small_codec(name)
    with torch.no_grad(), model.ready_to_code():
        coded = model.compress(photograph(64, 64)[None])
        for i, string in enumerate(coded["strings"]):
            for length in {0, 1, 4, len(string) // 2, len(string) - 4, len(string) - 1}:
                strings = [*coded["strings"][:i], string[:length], *coded["strings"][i + 1 :]]
                with pytest.raises(BitstreamError, match="entropy-coded section"):
                    model.decompress(strings, coded["shape"])


@every_model
def test_decoder_with_other_predictions_raises(name, small_codec):
    """As on another device or library. The factor spreads the scales of an untrained network over many tables."""
    model, factor = small_codec(name), torch.tensor(200.0)
    predictor = (parts(model, "prior") or [getattr(model, "h_s", None)])[-1]
    with torch.no_grad(), model.ready_to_code():
        if predictor is not None:
            predictor.register_forward_hook(lambda module, inputs, psi: psi * factor.to(psi))
        coded = model.compress(photograph(128, 128)[None])
        model.decompress(**coded)
        factor *= 1.01
        if predictor is None:
            model.entropy_bottleneck.matrices[0].add_(0.1)
            model.update()
        with pytest.raises(BitstreamError, match="decode it where it was encoded"):
            model.decompress(**coded)


@every_model
def test_reloaded_weights_decode_the_same_file(name, small_codec):
    model = small_codec(name)
    x = photograph(64, 128)
    with model.ready_to_code():
        data = bitstream.encode(model, x, bytes(8))
        x_hat = bitstream.decode(model, data, bytes(8))
    other = build(small_config(name))
    other.load_state_dict(model.state_dict())
    with other.ready_to_code():
        torch.testing.assert_close(bitstream.decode(other, data, bytes(8)), x_hat, rtol=0, atol=0)


@every_model
def test_coding_leaves_the_training_state_unchanged(name, small_codec):
    model = small_codec(name).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with model.ready_to_code():
        assert not model.training
        moved = [not torch.equal(p, before[f"{key}.quantiles"]) for key, p in _quantiles(model)]
    assert all(moved)
    assert model.training
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def _quantiles(model):
    return [(key.removesuffix(".quantiles"), p) for key, p in model.named_parameters() if key.endswith("quantiles")]


@every_model
def test_equal_seeds_give_equal_steps(name, small_codec):
    x = photograph(64, 64)[None]

    def gradient():
        model = small_codec(name).train()
        torch.manual_seed(7)
        out = model(x)
        losses.bpp(out, x).backward()
        return [p.grad for p in model.net_parameters() if p.grad is not None]

    for a, b in zip(gradient(), gradient(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@every_model
def test_channels_last_trains_like_the_default_layout(name, small_codec):
    """Gradients agree, and no kernel of the other memory format crashes the interpreter."""
    x = photograph(64, 64)[None]

    def gradients(memory_format):
        model = small_codec(name).train().to(memory_format=memory_format)
        torch.manual_seed(1)
        losses.mse(model(x.contiguous(memory_format=memory_format)), x).backward()
        return {key: p.grad for key, p in model.named_parameters() if p.grad is not None and key.startswith("g_a")}

    plain, last = gradients(torch.contiguous_format), gradients(torch.channels_last)
    assert plain.keys() == last.keys()
    for key, gradient in last.items():
        # Codecs that round in training may round one element differently, hence the tolerance of a fifth.
        # The gradient of a bias before a batch norm consists of rounding errors only.
        assert (gradient - plain[key]).norm() <= 0.2 * plain[key].norm() + 1e-6, key


@every_model
def test_copies_and_pickles_of_a_ready_model_decode(name, small_codec):
    model = small_codec(name)
    x = photograph(64, 64)
    with model.ready_to_code(), torch.no_grad():
        data = bitstream.encode(model, x, bytes(8))
        expected = bitstream.decode(model, data, bytes(8))
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(bitstream.decode(other, data, bytes(8)), expected)
