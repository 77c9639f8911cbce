"""Serial context over a latent as a volume (channel, row, column), coded as a wavefront.

The context of GAACNN (Tang et al. 2023) and of the NIC code base on which it is built. The 11x11x11 kernel covers the
665 elements before its centre in raster order, channel-major. An element depends on the five channels before it (11x11
positions each), on five rows above and on five elements to its left. An element with
``t = 36 * channel + 6 * row + column`` depends only on elements of smaller t: 36(M - 1) + 6(h - 1) + w steps instead of
M * h * w.

The wavefront of the bitstream runs on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lic_train.entropy.mixture import GaussianMixture
from lic_train.entropy.mixture_coder import MixtureDecoder, MixtureEncoder, one_by_one
from lic_train.entropy.precision import exactly, in_float32, one_thread, repeatable

SIZE, REACH = 11, 5  # side of the kernel, and its reach in each direction
TAPS = SIZE**3 // 2  # 665: the taps before the centre
COMPONENTS = 3

# Weights, means and scales of n elements, each (n, K).
Parameters = tuple[Tensor, Tensor, Tensor]
# Maps elements (n,) in the flat volume and their parameters to y_hat (n,).
Code = Callable[[Tensor, Parameters], Tensor]

SCALES: dict[str, Callable[[Tensor], Tensor]] = {"abs": torch.abs, "softplus": F.softplus}


class CausalConv3d(nn.Conv2d):
    """11x11x11 convolution of a one-channel volume, restricted to the 665 taps before its centre in raster order.

    The depth of the kernel is stored as input channels: the backward pass of 2-D convolutions over stacks of six
    adjacent channels is four times faster than that of a 3-D one. Parameters and initialisation are those of
    ``Conv3d(1, features, 11)``.
    """

    def __init__(self, features: int) -> None:
        super().__init__(SIZE, features, kernel_size=SIZE, padding=REACH)

    def taps(self) -> Tensor:
        """Return the visible weights (features, 665) in raster order."""
        return self.weight.flatten(1)[:, :TAPS]

    def forward(self, y_hat: Tensor) -> Tensor:
        """Map (B, M, h, w) to (B * M, features, h, w)."""
        depth = REACH + 1
        kernel = F.pad(self.taps(), (0, depth * SIZE**2 - TAPS)).view(-1, depth, SIZE, SIZE)
        stacks = F.pad(y_hat, (0, 0, 0, 0, REACH, 0)).unfold(1, depth, 1)
        return F.conv2d(stacks.permute(0, 1, 4, 2, 3).flatten(0, 1), kernel, self.bias, padding=REACH)


class VolumeContext(nn.Module):
    """Entropy model with a masked 3-D context and a small network from context and one hyper feature to a mixture.

    ``psi`` (B, 2M, h, w) is the output of the hyper decoder. Order of the network's inputs: context, hyper; of its
    outputs: weight logit, mean and raw scale of component 0, then of component 1, and so on.

    Args:
        M: channels of y.
        features: channels of the context.
        scale_param: ``abs`` (the sign of a raw scale is ignored) or ``softplus``.

    Raises:
        ValueError: ``scale_param`` is not valid.
    """

    def __init__(self, M: int, features: int = 24, scale_param: str = "abs") -> None:
        super().__init__()
        if scale_param not in SCALES:
            raise ValueError(f"scale_param: expected {' or '.join(SCALES)}, got {scale_param!r}")
        self.scale_param = scale_param
        self.hyper = nn.Conv2d(2 * M, M, kernel_size=3, padding=1)
        self.context_prediction = CausalConv3d(features)
        self.entropy_parameters = nn.Sequential(
            nn.Conv2d(features + 1, 2 * features, kernel_size=1),
            nn.ReLU(),
            nn.Conv2d(2 * features, 4 * features, kernel_size=1),
            nn.ReLU(),
            nn.Conv2d(4 * features, 3 * COMPONENTS, kernel_size=1),
        )
        self.mixture = GaussianMixture()

    @in_float32
    def forward(self, y_hat: Tensor, psi: Tensor) -> Tensor:
        """Return the likelihoods (B, M, h, w) of y_hat (B, M, h, w), all elements at once."""
        raw = self.predict(y_hat, psi).unflatten(0, y_hat.shape[:2])
        weights, means, scales = (part.transpose(1, 2) for part in self._split(raw, dim=2))
        return self.mixture.likelihood(y_hat, weights, means, scales)

    def predict(self, y_hat: Tensor, psi: Tensor) -> Tensor:
        """Return the network's outputs (B * M, 9, h, w), each computed from the elements before its own."""
        hyper = self.hyper(psi).flatten(0, 1).unsqueeze(1)
        return self.entropy_parameters(torch.cat([self.context_prediction(y_hat), hyper], dim=1))

    def _split(self, raw: Tensor, dim: int) -> Parameters:
        """Split the 9 outputs along ``dim`` into weights, means and scales, with the 3 components along ``dim``."""
        logits, means, scales = raw.unflatten(dim, (COMPONENTS, 3)).unbind(dim + 1)
        return logits.softmax(dim), means, SCALES[self.scale_param](scales)

    @torch.no_grad()
    def compress(self, y: Tensor, psi: Tensor) -> bytes:
        """Encode y (1, M, h, w) given psi (1, 2M, h, w).

        Raises:
            BitstreamError: y or a parameter is not finite.
        """
        encoder = MixtureEncoder()
        flat = y.detach().cpu().flatten()
        self._wavefront(psi, lambda at, parameters: self.mixture.encode(encoder, flat[at], *parameters))
        return encoder.finish()

    @one_by_one
    @torch.no_grad()
    def decompress(self, string: bytes, psi: Tensor) -> Tensor:
        """Return y_hat (B, M, h, w) on the CPU in float64.

        Raises:
            BitstreamError: the string is damaged.
        """
        decoder = MixtureDecoder(string)
        y_hat = self._wavefront(psi, lambda at, parameters: self.mixture.decode(decoder, *parameters))
        decoder.finish()
        return y_hat

    def _wavefront(self, psi: Tensor, code: Code) -> Tensor:
        """Process all elements in coding order and return y_hat (1, M, h, w)."""
        volume = psi.shape[1] // 2, *psi.shape[2:]
        context, first, *rest = self._matrices()
        with repeatable(self.hyper):
            hyper = torch.addmm(first[1], exactly(self.hyper(psi)).view(-1, 1), first[0][-1:])
        canvas = hyper.new_zeros([REACH + volume[0], *(side + 2 * REACH for side in volume[1:])])
        flat, taps = canvas.view(-1), _tap_offsets(canvas)
        with one_thread():
            for elements, centres in wavefront(*volume):
                patches = flat.index_select(0, (centres[:, None] + taps).view(-1)).view(-1, TAPS)
                values = hyper[elements].addmm_(torch.addmm(context[1], patches, context[0]), first[0][:-1])
                for matrix, bias in rest:
                    values = torch.addmm(bias, values.relu_(), matrix)
                flat.index_copy_(0, centres, code(elements, self._split(values, dim=1)))
        return canvas[None, REACH:, REACH:-REACH, REACH:-REACH].contiguous()

    def _matrices(self) -> list[tuple[Tensor, Tensor]]:
        """Return the convolutions as float64 matrices (inputs, outputs) and biases on the CPU: context, then 1x1."""
        pointwise = [layer for layer in self.entropy_parameters if isinstance(layer, nn.Conv2d)]
        matrices = [self.context_prediction.taps(), *(layer.weight.flatten(1) for layer in pointwise)]
        biases = [layer.bias for layer in (self.context_prediction, *pointwise)]
        return [
            (exactly(matrix).T.contiguous(), exactly(bias))
            for matrix, bias in zip(matrices, biases, strict=True)
            if bias is not None
        ]


def wavefront(M: int, height: int, width: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Return for each step its elements in the flat volume (n,) and their centres in the flat padded volume (n,).

    The padding has five empty channels before the volume and a border of five around its maps.
    """
    channel, row, column = torch.meshgrid(torch.arange(M), torch.arange(height), torch.arange(width), indexing="ij")
    time = (36 * channel + 6 * row + column).flatten()
    centre = ((channel + REACH) * (height + 2 * REACH) + row + REACH) * (width + 2 * REACH) + column + REACH
    order = torch.argsort(time, stable=True)
    counts = torch.unique_consecutive(time[order], return_counts=True)[1].tolist()
    return zip(order.split(counts), centre.flatten()[order].split(counts), strict=True)


def _tap_offsets(canvas: Tensor) -> Tensor:
    """Return the (665,) offsets from a centre to its taps in the flat padded volume, in raster order."""
    axis = torch.arange(-REACH, REACH + 1)
    depth, row, column = torch.meshgrid(axis, axis, axis, indexing="ij")
    return (depth * canvas.stride(0) + row * canvas.stride(1) + column).flatten()[:TAPS]
