"""Forward passes and coding on a CUDA device without one: FakeTensorMode follows shapes, dtypes and devices only.

An operation on tensors of two devices raises an error, as on a GPU. The backward pass cannot run in this mode.
"""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_impls import op_implementations_dict
from torch._subclasses.fake_tensor import unset_fake_temporarily

from lic_train.config.compose import compose
from lic_train.config.run import checked
from lic_train.data.stream.on_device import to_floats
from lic_train.entropy import autoregressive, bottleneck, gaussian, mixture, precision
from lic_train.entropy.bottleneck import EntropyBottleneck
from lic_train.entropy.noise import part_of_batch
from lic_train.models.base import Codec, build
from lic_train.recipes.losses import TERMS
from lic_train.training.optim import clip_net, gradient_norms, make_optimizer
from tests.conftest import SMALL, small_config
from tests.small_runs import FORK

LOSSES = {name: term for name, term in TERMS.items() if name != "ms_ssim"}  # which needs sides above 160


@pytest.fixture(scope="module")
def on_fake_cuda() -> Iterator[Callable[..., None]]:
    """Return a function that calls ``check(*arguments)`` where tensors are fake and CUDA's autocast believes in a GPU.

    The calls run in one forked process: the mode makes autograd count a CUDA device for the rest of a process, and
    start a thread for it. A process with such threads cannot be forked, as other tests do.
    """
    here, there = FORK.Pipe()
    child = FORK.Process(target=_serve, args=(there, here), daemon=True)
    child.start()
    there.close()

    def call(check: Callable[..., None], *arguments: Any) -> None:
        here.send((check, arguments))
        if failure := here.recv():
            pytest.fail(failure)

    yield call
    here.close()
    child.join()


def _serve(connection: Connection, other_end: Connection) -> None:
    other_end.close()  # so that this end sees when the other process closes it
    torch.set_num_threads(1)  # OpenMP threads do not survive a fork
    gc.disable()  # it takes a third of the time
    while True:
        try:
            check, arguments = connection.recv()
        except EOFError:
            return
        failure = None
        with pytest.MonkeyPatch.context() as patch:
            _believe_in_cuda(patch)
            try:
                with FakeTensorMode(allow_non_fake_inputs=True):
                    check(*arguments)
            except BaseException:
                failure = traceback.format_exc()
        connection.send(failure)
        gc.collect()


def _believe_in_cuda(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    patch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    tables = autoregressive._diagonals.__wrapped__

    def diagonals(height: int, width: int, device: torch.device) -> list[tuple[Tensor, ...]]:
        with unset_fake_temporarily():  # their number depends on values
            steps = tables(height, width, torch.device("cpu"))
        return [tuple(index.to(device) for index in step) for step in steps]

    patch.setattr(autoregressive, "_diagonals", diagonals)
    # Masks have no values, so every position of a mask counts as true.
    patch.setitem(op_implementations_dict, torch.ops.aten.nonzero.default, everywhere)


def everywhere(mode: FakeTensorMode, function: object, mask: Tensor) -> Tensor:
    return mask.new_empty(mask.numel(), mask.dim(), dtype=torch.int64)


def on_cuda(config: dict[str, object], ready: bool = False) -> Codec:
    """Build a codec, ready to code or not, and move it as `Module.to` does: parameters and buffers, nothing else."""
    with unset_fake_temporarily():
        model = build(config)
        if ready:
            model.update()
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                fake = torch.empty(weight.shape, dtype=weight.dtype, device="cuda")
                module._parameters[name] = nn.Parameter(fake, weight.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cuda")
    return model


def forward(model: Codec, training: bool, bf16: bool, side: int = 64) -> set[tuple[str, torch.dtype]]:
    """Return the devices and dtypes of all results of a forward pass with losses, for a batch of two."""
    batch = torch.empty(2, 3, side, side, dtype=torch.uint8, device="cuda")
    x = to_floats(batch, torch.zeros(2, dtype=torch.bool, device="cuda"))
    with torch.autocast("cuda", dtype=torch.bfloat16, enabled=bf16), torch.set_grad_enabled(training):
        out = model.train(training)(x)
        results = [term(out, x) for term in LOSSES.values()] + [model.aux_loss()]
    return {(value.device.type, value.dtype) for value in [*results, *out["likelihoods"].values()]}


def check_training(name: str, bf16: bool) -> None:
    model = on_cuda(small_config(name))
    for quantizer in model.quantizers or (None,):
        model.use_quantizer(quantizer)
        assert forward(model, training=True, bf16=bf16) == {("cuda", torch.float32)}


def check_evaluation(name: str, bf16: bool) -> None:
    assert forward(on_cuda(small_config(name)), training=False, bf16=bf16) == {("cuda", torch.float32)}


def check_autocast_is_enabled() -> None:
    with torch.autocast("cuda", dtype=torch.bfloat16):
        y = nn.functional.conv2d(torch.empty(1, 3, 8, 8, device="cuda"), torch.empty(4, 3, 3, 3, device="cuda"))
    assert (y.device.type, y.dtype) == ("cuda", torch.bfloat16)


def check_layer_that_creates_a_tensor_on_the_cpu_fails(training: bool) -> None:
    model = on_cuda(small_config("mbt2018_mean"))
    first = model.g_a[0]
    first.forward = lambda x: nn.Conv2d.forward(first, x) * torch.ones(x.shape[0], 1, 1, 1)  # type: ignore[method-assign]
    with pytest.raises(Exception, match=r"(?i)device"):
        forward(model, training, bf16=False)


def check_optimizer() -> None:
    model = on_cuda(small_config("mbt2018_mean"))
    optimizer = make_optimizer(model, checked(compose(["model=mbt2018_mean"])).make_recipe())
    optimizer.found_inf = torch.zeros((), device="cuda")  # type: ignore[attr-defined]
    for parameter in model.parameters():
        parameter.grad = torch.empty_like(parameter)
    clip_net(optimizer, gradient_norms(optimizer), 1.0)
    optimizer.step()
    states = optimizer.state.values()
    assert len(states) == len(list(model.parameters()))
    assert {(name, value.device.type) for state in states for name, value in state.items()} == {
        ("step", "cuda"),
        ("exp_avg", "cuda"),
        ("exp_avg_sq", "cuda"),
    }


def check_part_of_a_batch() -> None:
    model = on_cuda(small_config("mbt2018_mean"))
    with part_of_batch(1 + 2 * torch.arange(2, device="cuda"), 4):
        assert forward(model, training=True, bf16=True) == {("cuda", torch.float32)}


def check_coding(name: str) -> None:
    """The networks and all tensors of `compress` and `decompress`; the coder gets zeros and ones for their values."""
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        for module in (gaussian, mixture):
            patch.setattr(module, "numbers", lambda _, values: np.ones(values.numel()))
            patch.setattr(module, "on_host", lambda *values: [value.cpu() for value in values])
        for module in (bottleneck, gaussian, mixture):
            patch.setattr(module, "to_symbols", lambda values: np.zeros(values.numel(), np.int32))
        patch.setattr(EntropyBottleneck, "is_ready", True)  # which compares values
        model = on_cuda(small_config(name), ready=True).eval()
        x = torch.empty(1, 3, 64, 64, device="cuda")
        out = model(x)["x_hat"]
        coded = model.compress(x)
        decoded = model.decompress(**coded)["x_hat"]
    assert (decoded.shape, decoded.device) == (out.shape, out.device)


def check_values_of_a_gpu_reach_pinned_memory_with_one_wait() -> None:
    calls: list[str] = []
    empty, copy = torch.empty, Tensor.copy_

    class Event:
        def record(self, stream: object) -> None:
            calls.append("record")

        def synchronize(self) -> None:
            calls.append("wait")

    def allocate(*shape: object, pin_memory: bool, **options: object) -> Tensor:
        calls.append(f"allocate, pinned {pin_memory}")
        return empty(*shape, **options)

    def copied(self: Tensor, source: Tensor, non_blocking: bool) -> Tensor:
        calls.append(f"copy, non_blocking {non_blocking}")
        return copy(self, source, non_blocking=non_blocking)

    values = empty(2, 3, device="cuda").t(), empty(4, dtype=torch.float64, device="cuda")
    with pytest.MonkeyPatch.context() as patch:
        for owner, name, stand_in in (
            (torch.cuda, "Event", Event),
            (torch.cuda, "current_stream", lambda device: None),
            (torch, "empty", allocate),
            (Tensor, "copy_", copied),
        ):
            patch.setattr(owner, name, stand_in)
        on_host = precision.on_host(*values)
    assert [(v.shape, v.dtype, v.device.type, v.is_contiguous()) for v in on_host] == [
        (torch.Size([3, 2]), torch.float32, "cpu", True),
        (torch.Size([4]), torch.float64, "cpu", True),
    ]
    assert calls == ["allocate, pinned True"] * 2 + ["copy, non_blocking True"] * 2 + ["record", "wait"]


def test_mixture_of_a_gpu_codes_parameters_on_the_host() -> None:
    """As the 3-D context does; an operation on the host and on the meta device raises an error, as on a GPU."""
    density = mixture.GaussianMixture().to("meta")
    y, parameters = torch.tensor([2.0, -1.0]), [torch.ones(2, 1), torch.zeros(2, 1), torch.full((2, 1), 0.01)]
    with pytest.raises(RuntimeError, match=r"device"):
        density.lower_bound_scale(parameters[2])
    assert torch.equal(density.decompress(density.compress(y, *parameters), *parameters), y)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("name", SMALL)
def test_training(name: str, bf16: bool, on_fake_cuda: Callable[..., None]) -> None:
    on_fake_cuda(check_training, name, bf16)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("name", SMALL)
def test_evaluation(name: str, bf16: bool, on_fake_cuda: Callable[..., None]) -> None:
    on_fake_cuda(check_evaluation, name, bf16)


@pytest.mark.parametrize("name", ["mbt2018", "elic2022", "gcab_gmm"])
def test_coding(name: str, on_fake_cuda: Callable[..., None]) -> None:
    on_fake_cuda(check_coding, name)


@pytest.mark.parametrize("training", [True, False])
def test_layer_that_creates_a_tensor_on_the_cpu_fails(training: bool, on_fake_cuda: Callable[..., None]) -> None:
    on_fake_cuda(check_layer_that_creates_a_tensor_on_the_cpu_fails, training)


@pytest.mark.parametrize(
    "check",
    [
        check_autocast_is_enabled,
        check_optimizer,
        check_part_of_a_batch,
        check_values_of_a_gpu_reach_pinned_memory_with_one_wait,
    ],
)
def test_steps(check: Callable[[], None], on_fake_cuda: Callable[..., None]) -> None:
    on_fake_cuda(check)


def test_failures_of_the_other_process_are_reported(on_fake_cuda: Callable[..., None]) -> None:
    with pytest.raises(pytest.fail.Exception, match="ZeroDivisionError"):
        on_fake_cuda(divmod, 1, 0)
