"""The codec interface that every network implements, and how a codec is built from its configuration."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from importlib.metadata import entry_points
from typing import Any, ClassVar, NotRequired, Protocol, TypedDict

import torch
from torch import Tensor, nn
from torch.utils._device import DeviceContext

from lic_train.entropy.bottleneck import EntropyBottleneck
from lic_train.entropy.coder import Strings
from lic_train.entropy.precision import repeatable
from lic_train.errors import CheckpointError, ConfigError
from lic_train.layers.gains import GainUnit, Ladder

PACKAGE = "lic_train.models"
# Installed distributions declare models of their own as entry points of this group.
ENTRY_POINTS = "lic_train.models"
# Entries of a configuration that are not arguments of the constructor. The second one is the ladder of a variable rate.
TARGET, LAMBDAS = "_target_", "lambdas"


class CodecOutput(TypedDict):
    """Output of ``forward``.

    ``x_hat`` is (B, 3, H, W) and is not clamped. ``likelihoods`` maps each latent ("y" and "z", or "z0", "z1", ... of a
    hierarchical model) to the likelihoods of its elements, in the shape of the latent. ``features`` are tensors for
    additional loss terms, for example "refined" and "enhanced" of IB-LIC.
    """

    x_hat: Tensor
    likelihoods: dict[str, Tensor]
    features: NotRequired[dict[str, Tensor]]


class Compressed(TypedDict):
    """Output of ``compress``: one byte string per stream, and (h, w) of the smallest latent."""

    strings: list[bytes]
    shape: tuple[int, int]


def joined(pictures: Sequence[Compressed]) -> tuple[list[list[bytes]], tuple[int, int]]:
    """Return the arguments of ``decompress`` for a batch of pictures.

    Raises:
        ValueError: the pictures have latents of different sizes, or there are none.
    """
    shapes = {picture["shape"] for picture in pictures}
    if len(shapes) != 1:
        raise ValueError(f"pictures: expected latents of one size, got {sorted(shapes)}")
    return [list(strings) for strings in zip(*(picture["strings"] for picture in pictures), strict=True)], shapes.pop()


class Decompressed(TypedDict):
    """Output of ``decompress``: ``x_hat`` (B, 3, H, W), clamped to [0, 1]."""

    x_hat: Tensor


class _AllSeen(Exception):
    """Ends a forward pass whose remaining results are not needed."""


class Codec(nn.Module):
    """Base class of learned image codecs: networks, entropy models and bitstream.

    Shapes: ``x`` is (B, 3, H, W), RGB in [0, 1]; H and W are multiples of ``downsampling_factor``.

    A subclass implements

    - ``forward(x) -> CodecOutput``. In eval mode it uses exactly the quantiser of the bitstream, so that
      ``decompress(**compress(x))`` equals ``forward(x)`` up to float order.
    - ``compress(x) -> Compressed``, for a batch of one.
    - ``decompress(strings, shape) -> Decompressed``.

    Call ``update()`` before ``compress`` and ``decompress``, and again after any change of the weights.
    """

    downsampling_factor: int
    # Training quantisers that a recipe can select, the paper's first. Empty: the model has a single one.
    quantizers: tuple[str, ...] = ()
    quantizer: str
    # How `lic zoo` reads the authors' files, or CompressAI's. Pairs (regular expression, replacement) change a tensor's
    # name there into the name here, one substitution after the other; a tensor whose name becomes empty is not used.
    # None: such weights cannot be imported.
    authors_names: Sequence[tuple[str, str]] | None = None
    # Constructor arguments of the authors' network that differ from the defaults and do not follow from shapes.
    authors_arguments: ClassVar[Mapping[str, Any]] = {}
    # Lambdas of the levels of a variable rate; None: the codec has one rate.
    ladder: Ladder | None = None
    gains: nn.ModuleDict

    def compress(self, x: Tensor) -> Compressed:
        """Encode one image (1, 3, H, W)."""
        raise NotImplementedError

    def decompress(self, strings: Sequence[Strings], shape: tuple[int, int]) -> Decompressed:
        """Decode the output of `compress`, or of several pictures of one size in one pass of the networks.

        Args:
            strings: for each stream its string, or for a batch the strings of its pictures; see `joined`.
            shape: (h, w) of the smallest latent.
        """
        raise NotImplementedError

    def use_quantizer(self, name: str | None) -> None:
        """Select the training quantiser, one of ``quantizers``. None selects the paper's."""
        if self.quantizers:
            self.quantizer = name or self.quantizers[0]

    def latents(self) -> dict[str, tuple[nn.Module, nn.Module]]:
        """Return, for each latent, the network whose output it is and the network that reads the quantised latent."""
        return {"y": (self.get_submodule("g_a"), self.get_submodule("g_s"))}

    def vary_rate(self, lambdas: Sequence[float]) -> None:
        """Make the rate continuous: add a gain unit around the quantiser of every latent; see `GainUnit`.

        Raises:
            ValueError: the lambdas are not positive and increasing.
        """
        ladder = Ladder(lambdas)
        channels = self._latent_channels()
        self.gains = nn.ModuleDict({name: GainUnit(len(ladder), channels[name]) for name in self.latents()})
        for name, (source, sink) in self.latents().items():
            self._gain(name).attach(source, sink)
        self.ladder = ladder
        self.start_gains()

    def _gain(self, name: str) -> GainUnit:
        unit = self.gains[name]
        assert isinstance(unit, GainUnit)
        return unit

    def start_gains(self, factor: float = 1.0) -> None:
        """Set the initial gains, those of the latents of the picture times ``factor``.

        Latents of side information have gains of 1.
        """
        assert self.ladder is not None
        self._gain("y").start_at([factor * gain for gain in self.ladder.gains()])

    def reset_gains(self) -> None:
        """Set all gains to 1, so that every level is the codec of one rate with the same weights."""
        assert self.ladder is not None
        for name in self.gains:
            self._gain(name).start_at([1.0] * len(self.ladder))

    @torch.no_grad()
    def _latent_channels(self) -> dict[str, int]:
        """Return the channels of every latent of the smallest picture; the forward pass ends at the last latent."""
        channels: dict[str, int] = {}
        sources = {name: source for name, (source, _) in self.latents().items()}

        def note(name: str, latent: Tensor) -> None:
            channels[name] = latent.shape[1]
            if channels.keys() == sources.keys():
                raise _AllSeen

        hooks = [
            source.register_forward_hook(lambda module, inputs, latent, name=name: note(name, latent))
            for name, source in sources.items()
        ]
        was_training = self.training
        with suppress(_AllSeen):
            self.eval()(torch.zeros(1, 3, self.downsampling_factor, self.downsampling_factor))
        self.train(was_training)
        for hook in hooks:
            hook.remove()
        return channels

    @contextmanager
    def at_level(self, level: float | Tensor | None) -> Iterator[None]:
        """Context in which the codec computes at a level of its rate.

        Args:
            level: in [0, L - 1], or a tensor (B,) of one level for each image, whose values are not checked. None is
                the middle of the range, and the only level of a codec with one rate.

        Raises:
            ConfigError: the codec has one rate, or the level is outside the range.
        """
        if self.ladder is None:
            if level is not None:
                raise ConfigError(
                    "The model has one rate.",
                    expected="no level, or a model that was trained with rate=variable",
                    got=f"level {level}",
                )
            yield
            return
        if not isinstance(level, Tensor):
            level = self.ladder.middle if level is None else self.ladder.check(level)
        before = {unit: unit.level for unit in map(self._gain, self.gains)}
        try:
            for unit in before:
                unit.level = level
            yield
        finally:
            for unit, earlier in before.items():
                unit.level = earlier

    def update(self, keep_medians: bool = False) -> None:
        """Solve the quantiles of every factorised density by bisection and build its coding table.

        Args:
            keep_medians: solve only the tails, for weights that are used with the medians of another library.

        Raises:
            CheckpointError: a weight is NaN or infinite; a bitstream of such a network cannot be decoded.
        """
        self._check_weights()
        for bottleneck in self.bottlenecks():
            bottleneck.update(keep_medians)

    def coding_tables(self) -> dict[str, Tensor]:
        """Return solved quantiles and coding tables of all factorised densities; the model does not change.

        Names are ``<module>.<table>``; see `EntropyBottleneck.coding_tables`.
        """
        return {
            f"{name}.{table}": values
            for name, bottleneck in self.named_bottlenecks().items()
            for table, values in bottleneck.coding_tables().items()
        }

    def use_tables(self, tables: Mapping[str, Tensor]) -> None:
        """Take over tables that `coding_tables` returned for the present weights, instead of `update`.

        Raises:
            CheckpointError: the tables are not valid, or a weight is NaN or infinite.
        """
        self._check_weights()
        groups: dict[str, dict[str, Tensor]] = {}
        for name, values in tables.items():
            module, _, table = name.rpartition(".")
            groups.setdefault(module, {})[table] = values
        bottlenecks = self.named_bottlenecks()
        if groups.keys() != bottlenecks.keys():
            raise CheckpointError(
                "The stored coding tables belong to another model.",
                expected=f"tables of {', '.join(bottlenecks)}",
                got=f"tables of {', '.join(groups) or 'nothing'}",
            )
        for name, group in groups.items():
            bottlenecks[name].use_tables(group)

    def _check_weights(self) -> None:
        state = self.state_dict().items()
        broken = [name for name, value in state if value.is_floating_point() and not bool(value.isfinite().all())]
        if broken:
            more = f" and {len(broken) - 1} more" if broken[1:] else ""
            raise CheckpointError(
                "The model has weights that are not finite: training diverged, or the weights are damaged.",
                expected="finite weights",
                got=f"NaN or infinity in {broken[0]}{more}",
                to_do="use an earlier checkpoint",
            )

    def bottlenecks(self) -> Iterator[EntropyBottleneck]:
        """Return the factorised densities of this model."""
        return iter(self.named_bottlenecks().values())

    def named_bottlenecks(self) -> dict[str, EntropyBottleneck]:
        """Return the factorised densities of this model by the names of their modules."""
        return self._bottlenecks

    @cached_property
    def _bottlenecks(self) -> dict[str, EntropyBottleneck]:
        # Every training step needs them, and a walk over all modules takes as long as several layers.
        return {name: module for name, module in self.named_modules() if isinstance(module, EntropyBottleneck)}

    def aux_loss(self) -> Tensor:
        """Return the distance of all quantiles from their targets, a scalar. Only the quantiles receive a gradient.

        It is zero, without gradient, for a model without factorised density.
        """
        distances = [bottleneck.loss() for bottleneck in self.bottlenecks()]
        return torch.stack(distances).sum() if distances else next(self.parameters()).new_zeros(())

    def aux_parameters(self) -> list[nn.Parameter]:
        """Return the quantiles: the second parameter group."""
        return [bottleneck.quantiles for bottleneck in self.bottlenecks()]

    def net_parameters(self) -> list[nn.Parameter]:
        """Return all parameters except the quantiles: the first parameter group."""
        aux = {id(parameter) for parameter in self.aux_parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in aux]

    @contextmanager
    def ready_to_code(self) -> Iterator[None]:
        """Context in eval mode with solved quantiles and current tables; the training state is restored bit-exactly.

        Tables that belong to the present weights, for example those of a file, are not built again.
        """
        was_training = self.training
        saved = [parameter.detach().clone() for parameter in self.aux_parameters()]
        try:
            self.eval()
            if all(bottleneck.is_ready for bottleneck in self.bottlenecks()):
                self._check_weights()
            else:
                self.update()
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(self.aux_parameters(), saved, strict=True):
                    parameter.copy_(value)
            self.train(was_training)


class Context(Protocol):
    """Conditional entropy model p(y | psi) of y (B, M, h, w)."""

    def __call__(self, y: Tensor, psi: Tensor) -> tuple[Tensor, Tensor]:
        """Return y_hat and its likelihoods, both (B, M, h, w)."""

    def compress(self, y: Tensor, psi: Tensor) -> bytes:
        """Encode y (1, M, h, w)."""

    def decompress(self, string: Strings, psi: Tensor) -> Tensor:
        """Return y_hat (B, M, h, w)."""


class HyperpriorCodec(Codec):
    """Codec with a hyperprior (Balle et al. 2018): the latent y, and a latent z from which y is predicted.

    ::

        x --g_a--> y --h_a--> z --Q--> z_hat --h_s--> psi
        y, psi --context--> y_hat --g_s--> x_hat

    A subclass sets these networks and overrides each step that its paper defines differently. y is
    (B, M, H/16, W/16), z is (B, N, H/64, W/64), psi has the height and width of y.
    """

    downsampling_factor = 64
    g_a: nn.Module
    g_s: nn.Module
    h_a: nn.Module
    h_s: nn.Module
    entropy_bottleneck: EntropyBottleneck
    context: Context

    def latents(self) -> dict[str, tuple[nn.Module, nn.Module]]:
        """See `Codec.latents`. h_a reads the gained y, as in Cui et al. 2021."""
        return {"y": (self.g_a, self.g_s), "z": (self.h_a, self.h_s)}

    def forward(self, x: Tensor) -> CodecOutput:
        """Return x_hat and likelihoods of x (B, 3, H, W); see `Codec`."""
        y, z = self._analyse(x)
        z_hat, z_likelihoods = self.entropy_bottleneck(z)
        psi = self._psi(z_hat)
        y_hat, y_likelihoods = self.context(y, psi)
        x_hat = self._synthesise(y_hat)
        return {"x_hat": x_hat, "likelihoods": {"y": y_likelihoods, "z": z_likelihoods}}

    def compress(self, x: Tensor) -> Compressed:
        """Return the strings [y, z] of one image and the shape of z."""
        assert not self.training, "coding needs eval mode: only there are psi and its context float64"
        y, z = self._analyse(x)
        z_string = self.entropy_bottleneck.compress(z)
        psi = self._psi(self.entropy_bottleneck.quantize(z))
        y_string = self.context.compress(y, psi)
        return {"strings": [y_string, z_string], "shape": (z.shape[2], z.shape[3])}

    def decompress(self, strings: Sequence[Strings], shape: tuple[int, int]) -> Decompressed:
        """See `Codec.decompress`."""
        assert not self.training, "coding needs eval mode: only there are psi and its context float64"
        z_hat = self.entropy_bottleneck.decompress(strings[1], shape)
        psi = self._psi(z_hat)
        y_hat = self.context.decompress(strings[0], psi)
        return {"x_hat": self._synthesise(y_hat).clamp(0, 1)}

    def _analyse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and z."""
        y = self.g_a(x)
        return y, self.h_a(y)

    def _psi(self, z_hat: Tensor) -> Tensor:
        """Return psi; in eval mode z_hat is float64, and everything that computes psi from it must be `repeatable`."""
        with repeatable(self.h_s):
            return self.h_s(z_hat)

    def _synthesise(self, y_hat: Tensor) -> Tensor:
        """Return x_hat, not clamped."""
        return self.g_s(y_hat)


def find_model(config: Mapping[str, Any]) -> type[Codec]:
    """Return the class that ``config["_target_"]`` names.

    A target is a class of ``lic_train.models``, or one that an installed distribution declares: an entry point of the
    group ``lic_train.models`` with the value ``package.module:Class``, or ``package.module`` for all its codecs.
    Any other target is refused before its module is imported, because configurations can come from untrusted files.

    Raises:
        ValueError: the target is neither, or it is not a Codec.
    """
    target = str(config.get(TARGET, ""))
    module_name, _, class_name = target.rpartition(".")
    if not module_name.startswith(f"{PACKAGE}.") and not {target, module_name} & set(declared := _declared_targets()):
        installed = f"the installed ones are {', '.join(declared)}" if declared else "none is installed"
        raise ValueError(
            f"_target_: expected {PACKAGE}.<file>.<Class> or a declared entry point of the group {ENTRY_POINTS} "
            f"({installed}), got {target!r}"
        )
    try:
        model_class = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"_target_: expected an existing model, got {target!r} ({error})") from error
    if not (isinstance(model_class, type) and issubclass(model_class, Codec)):
        raise ValueError(f"_target_: expected a subclass of {Codec.__module__}.Codec, got {target!r}")
    return model_class


def _declared_targets() -> list[str]:
    """Return the modules, and the classes as ``module.Class``, that installed distributions declare."""
    return sorted({point.value.replace(":", ".") for point in entry_points(group=ENTRY_POINTS)})


def fixed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of the same network with one rate."""
    return {name: value for name, value in config.items() if name != LAMBDAS}


def build(config: Mapping[str, Any]) -> Codec:
    """Build a codec from ``{"_target_": "lic_train.models.<file>.<Class>", **arguments}``; see `find_model`.

    With a further entry ``lambdas``, a list of numbers, the codec has a variable rate; see `Codec.vary_rate`.

    Raises:
        ValueError: the target is not a known Codec, the arguments do not match its constructor, or the lambdas are not
            positive and increasing.
    """
    model_class = find_model(config)
    arguments = {name: value for name, value in config.items() if name not in (TARGET, LAMBDAS)}
    try:
        model = model_class(**arguments)
    except TypeError as error:
        raise ValueError(f"{model_class.__name__}: expected the arguments of its constructor, got {error}") from error
    if LAMBDAS in config:
        model.vary_rate(config[LAMBDAS])
    return model


def outline(config: Mapping[str, Any]) -> Codec:
    """Build a codec without memory for its weights: on the meta device, where tensors have shapes but no values.

    Raises:
        ValueError: the target is not a known Codec, or no network can be built with these arguments.
    """
    model_class = find_model(config)
    try:
        with _OnMeta(torch.device("meta")), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Initializing zero-element tensors")
            model = build(config)
    except Exception as error:  # a wrong argument can raise any error, for example ZeroDivisionError
        given = ", ".join(f"{name}={value}" for name, value in config.items() if name != TARGET)
        raise ValueError(f"no {model_class.__name__} can be built with {given}: {error}") from error
    if empty := [name for name, parameter in model.named_parameters() if not parameter.numel()]:
        raise ValueError(f"expected widths of at least 1, got an empty {empty[0]}")
    return model


class _OnMeta(DeviceContext):
    """Creates all tensors on the meta device, except those from which a constructor computes its widths."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func in (torch.linspace, torch.logspace):
            return func(*args, **(kwargs or {}))
        if any(isinstance(value, Tensor) and value.is_meta for value in args):
            # torch.Tensor([1.0]), which CompressAI uses for constants, ignores the device.
            args = tuple(value.to("meta") if isinstance(value, Tensor) else value for value in args)
        return super().__torch_function__(func, types, args, kwargs)
