"""The contract that every network fulfils, and how one is built from its configuration."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lic_train.entropy.bottleneck import EntropyBottleneck
from lic_train.entropy.precision import repeatable
from lic_train.errors import CheckpointError


class Codec(nn.Module):
    """A learned image codec: networks, entropy models and the real bitstream.

    Shapes: ``x`` is (B, 3, H, W), RGB in [0, 1], H and W multiples of ``downsampling_factor``.

    A model implements

    - ``forward(x) -> {"x_hat", "likelihoods": {"y", "z"}, "features"?}``. ``x_hat`` is not clamped. In eval mode it
      uses exactly the quantiser of the bitstream, so that ``decompress(compress(x))`` equals ``forward(x)`` up to
      float order.
    - ``compress(x) -> {"strings": list of bytes, one per stream, "shape": (h, w) of the smallest latent}``, for a
      batch of one.
    - ``decompress(strings, shape) -> {"x_hat"}``, clamped to [0, 1].

    ``update()`` must be called before the two, and after any change of the weights.
    """

    downsampling_factor: int
    # Quantisers of training among which a recipe may choose, the paper's first; empty: there is no choice.
    quantizers: tuple[str, ...] = ()
    quantizer: str
    # Beginnings of tensors' names in CompressAI's model of the same networks, and here; None: it has no such model.
    compressai_names: tuple[tuple[str, str], ...] | None = None

    def compress(self, x: Tensor) -> dict[str, Any]:
        """Code one image (1, 3, H, W); see above."""
        raise NotImplementedError

    def decompress(self, strings: list[bytes], shape: tuple[int, int]) -> dict[str, Any]:
        """Decode what `compress` gave; see above."""
        raise NotImplementedError

    def use_quantizer(self, name: str | None) -> None:
        """Quantise in training as a recipe's stage asks, one of ``quantizers``; None: as the paper does."""
        if self.quantizers:
            self.quantizer = name or self.quantizers[0]

    def update(self) -> None:
        """Solve the quantiles of every factorised density by bisection and build its coding table.

        Raises:
            CheckpointError: a weight is NaN or infinite; what such a network writes cannot be read.
        """
        self._check_weights()
        for bottleneck in self.bottlenecks():
            bottleneck.update()

    def _check_weights(self) -> None:
        state = self.state_dict().items()
        broken = [name for name, value in state if value.is_floating_point() and not bool(value.isfinite().all())]
        if broken:
            more = f" and {len(broken) - 1} more" if broken[1:] else ""
            raise CheckpointError(
                f"expected finite weights, got {broken[0]}{more} that are not finite: the training diverged, or the "
                "weights are damaged; go back to an earlier checkpoint"
            )

    def bottlenecks(self) -> Iterator[EntropyBottleneck]:
        """The factorised densities inside this model."""
        return (module for module in self.modules() if isinstance(module, EntropyBottleneck))

    def aux_loss(self) -> Tensor:
        """Distance of all quantiles from their targets; it has a gradient for the quantiles only. Scalar."""
        return torch.stack([bottleneck.loss() for bottleneck in self.bottlenecks()]).sum()

    def aux_parameters(self) -> list[nn.Parameter]:
        """The quantiles: the second parameter group."""
        return [bottleneck.quantiles for bottleneck in self.bottlenecks()]

    def net_parameters(self) -> list[nn.Parameter]:
        """Everything but the quantiles: the first parameter group."""
        aux = {id(parameter) for parameter in self.aux_parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in aux]

    @contextmanager
    def ready_to_code(self) -> Iterator[None]:
        """Eval mode with solved quantiles and fresh tables, leaving the training state bit-equal behind."""
        was_training = self.training
        saved = [parameter.detach().clone() for parameter in self.aux_parameters()]
        try:
            self.eval()
            self.update()
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(self.aux_parameters(), saved, strict=True):
                    parameter.copy_(value)
            self.train(was_training)


class Context(Protocol):
    """The entropy model of y (B, M, h, w), given what psi tells of it."""

    def __call__(self, y: Tensor, psi: Tensor) -> tuple[Tensor, Tensor]:
        """Return y_hat and its likelihoods, both (B, M, h, w)."""

    def compress(self, y: Tensor, psi: Tensor) -> bytes:
        """Code y (1, M, h, w)."""

    def decompress(self, string: bytes, psi: Tensor) -> Tensor:
        """Return y_hat (1, M, h, w)."""


class HyperpriorCodec(Codec):
    """Two latents, y and the z that predicts it (Balle et al. 2018): the data flow of every codec with a hyperprior.

    ::

        x --g_a--> y --h_a--> z --Q--> z_hat --h_s--> psi
        y, psi --context--> y_hat --g_s--> x_hat

    A subclass sets these networks; where its paper does a step otherwise, it overrides the step. y is
    (B, M, H/16, W/16), z is (B, N, H/64, W/64), psi is as high and wide as y.
    """

    downsampling_factor = 64
    g_a: nn.Module
    g_s: nn.Module
    h_a: nn.Module
    h_s: nn.Module
    entropy_bottleneck: EntropyBottleneck
    context: Context

    def forward(self, x: Tensor) -> dict:
        """(B, 3, H, W) -> x_hat and likelihoods; see `Codec`."""
        y, z = self._analyse(x)
        z_hat, z_likelihoods = self.entropy_bottleneck(z)
        psi = self._psi(z_hat)
        y_hat, y_likelihoods = self.context(y, psi)
        x_hat = self._synthesise(y_hat)
        return {"x_hat": x_hat, "likelihoods": {"y": y_likelihoods, "z": z_likelihoods}}

    def compress(self, x: Tensor) -> dict:
        """One image -> strings [y, z] and the shape of z."""
        y, z = self._analyse(x)
        z_string = self.entropy_bottleneck.compress(z)
        psi = self._psi(self.entropy_bottleneck.quantize(z))
        y_string = self.context.compress(y, psi)
        return {"strings": [y_string, z_string], "shape": tuple(z.shape[2:])}

    def decompress(self, strings: list[bytes], shape: tuple[int, int]) -> dict:
        """Mirror of `compress`."""
        z_hat = self.entropy_bottleneck.decompress(strings[1], shape)
        psi = self._psi(z_hat)
        y_hat = self.context.decompress(strings[0], psi)
        return {"x_hat": self._synthesise(y_hat).clamp(0, 1)}

    def _analyse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and z."""
        y = self.g_a(x)
        return y, self.h_a(y)

    def _psi(self, z_hat: Tensor) -> Tensor:
        """Predict; in evaluation equal to the last bit in encoder and decoder."""
        with repeatable(self):
            return self.h_s(z_hat)

    def _synthesise(self, y_hat: Tensor) -> Tensor:
        """Return x_hat, not clamped."""
        return self.g_s(y_hat)


def find_model(config: Mapping[str, Any]) -> type[Codec]:
    """The class that ``config["_target_"]`` names.

    Only classes of ``lic_train.models`` are found: configurations also arrive inside files from strangers.

    Raises:
        ValueError: it is not a Codec of this package.
    """
    target = str(config.get("_target_", ""))
    module_name, _, class_name = target.rpartition(".")
    if not module_name.startswith("lic_train.models."):
        raise ValueError(f"expected _target_: lic_train.models.<file>.<Class>, got {target!r}")
    try:
        model_class = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"no model {target!r}: {error}") from error
    if not (isinstance(model_class, type) and issubclass(model_class, Codec)):
        raise ValueError(f"{target!r} is not a Codec")
    return model_class


def build(config: Mapping[str, Any]) -> Codec:
    """Build a codec from ``{"_target_": "lic_train.models.<file>.<Class>", **arguments}``.

    Raises:
        ValueError: there is no such Codec, or the arguments do not fit it.
    """
    model_class = find_model(config)
    arguments = {name: value for name, value in config.items() if name != "_target_"}
    try:
        return model_class(**arguments)
    except TypeError as error:
        raise ValueError(f"{model_class.__name__} does not take these arguments: {error}") from error
