"""Channel slices with latent residual prediction (Minnen and Singh 2020, ICIP, arXiv 2007.08739).

y is coded in slices of equal width. The parameters of a slice are predicted from psi and its support, the first K
slices; latent residual prediction (LRP) then corrects the rounded slice. Later slices and g_s use the corrected values,
the likelihood belongs to the values before the correction. All slices after the first K have the same support and are
coded in one step, so n slices take K + 1 steps. No slice depends on the correction of the last step, which therefore
runs in float32, as g_s does.

Legend: B batch, h w size of y, M channels of y, s channels of a slice, C channels of psi for each kind of parameter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from lic_train.entropy.passes import LatentPass, PassContext
from lic_train.entropy.precision import planar


def slice_size(M: int, num_slices: int) -> int:
    """Return the channels of one of ``num_slices`` equal slices of M channels.

    Raises:
        ValueError: M does not divide into equal slices.
    """
    if num_slices < 1 or M % num_slices:
        raise ValueError(f"slices: expected a divisor of the {M} channels of y, got {num_slices}")
    return M // num_slices


def slice_network(in_channels: int, widths: Sequence[int], out_channels: int) -> nn.Sequential:
    """Build 3x3 convolutions with the hidden ``widths`` and GELU between them. Preserves height and width."""
    layers: list[nn.Module] = []
    for a, b in pairwise((in_channels, *widths, out_channels)):
        layers += [nn.GELU(), nn.Conv2d(a, b, kernel_size=3, padding=1)]
    return nn.Sequential(*layers[1:])


class SliceContext(PassContext):
    """Entropy model of a Gaussian y (B, M, h, w) given psi (B, 2C, h, w), the maps of scales and of means.

    For slice i with the corrected slices of its support, by default

    ::

        scales_i = scale_i(scale map, support),  means_i = mean_i(mean map, support)
        y_hat_i = q + means_i,  corrected: y_hat_i + tanh(residual_i(mean map, support, y_hat_i)) / 2

    Override `supports` for other inputs of these networks.

    Args:
        num_slices: n.
        size: s = M / n.
        max_support: K, the number of earliest slices in the support of a later one.
        channels: inputs of the scale and mean networks besides the support; C, unless `supports` is overridden.
        widths: hidden widths of all networks.
    """

    def __init__(self, num_slices: int, size: int, max_support: int, channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.size, self.max_support = size, max_support
        inputs = [channels + size * min(i, max_support) for i in range(num_slices)]
        self.scale = nn.ModuleList(slice_network(width, widths, size) for width in inputs)
        self.mean = nn.ModuleList(slice_network(width, widths, size) for width in inputs)
        self.residual = nn.ModuleList(slice_network(width + size, widths, size) for width in inputs)
        shared = min(max_support, num_slices - 1)
        self.steps = (*(range(i, i + 1) for i in range(shared)), range(shared, num_slices))

    @property
    def free(self) -> Iterable[nn.Module]:
        """See `PassContext`."""
        return self.residual[self.steps[-1].start :]

    def supports(self, step: int, psi: Tensor, decoded: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the inputs of the scale and of the mean networks of a step, (B, C', h, w) each.

        The input of the residual networks is that of the mean networks and the uncorrected slice.

        Args:
            step: index in ``steps``; it equals the index of the step's first slice.
            psi: (B, 2C, h, w).
            decoded: corrected slices of the support, (B, s, h, w) each.
        """
        scale_map, mean_map = psi.chunk(2, dim=1)
        return torch.cat([scale_map, *decoded], dim=1), torch.cat([mean_map, *decoded], dim=1)

    def _passes(self, psi: Tensor, code: LatentPass) -> Tensor:
        everywhere = torch.ones(psi.shape[2:], dtype=torch.bool, device=psi.device)
        decoded: list[Tensor] = []
        for step, group in enumerate(self.steps):
            scale_input, mean_input = self.supports(step, psi, decoded[: self.max_support])
            # Networks of one step run one after another. As grouped convolutions they take the same time, and their
            # float32 results depend on the grouping.
            scales = torch.cat([self.scale[i](scale_input) for i in group], dim=1)
            means = torch.cat([self.mean[i](mean_input) for i in group], dim=1)
            channels = slice(group.start * self.size, group.stop * self.size)
            y_hat = planar(code(channels, everywhere, scales, means))
            for i, part in zip(group, y_hat.split(self.size, dim=1), strict=True):
                weight = next(self.residual[i].parameters())
                residual = self.residual[i](torch.cat([mean_input, part], dim=1).to(weight))
                decoded.append(part + 0.5 * torch.tanh(residual))
        return torch.cat(decoded, dim=1)
