"""Long convolutions of M2-BERT: the two-sided filter, the MLP that makes it, the convolution and its cache.

Fu et al., "Monarch Mixer: A Simple Sub-Quadratic GEMM-Based Architecture" (NeurIPS 2023), section 4.1; Poli
et al., "Hyena Hierarchy" (ICML 2023), section 3.3, for filters made by an MLP of the position. A convolution
has one-sided kernels kf and kr of L taps a channel:

    y[t] = sum_{m>=0} kf[m] v[t - m]  +  sum_{m>=1} kr[m - 1] v[t + m]  +  bias v[t]

Kernels do not depend on the input: without gradients they are made once, and anew when the weights change.
FFTs run in float32 whatever autocast says: in bfloat16 a long kernel's tail would drown.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

_SPECTRA_BYTES = 512 << 20  # of one model's kernels in the frequency domain; the longest may exceed it


class Filter(nn.Module):
    """What makes the kernels of one convolution; parameter names are those of the published checkpoints.

    channels: H; order: width of the MLPs; features: of a position (1 + an even number); longest: positions
    that it has features for. The MLPs of the two directions have one `freq` in common.
    """

    def __init__(self, channels: int, order: int, features: int, longest: int, *, freq: float = 10.0) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(channels))
        self.pos_emb = _Positions(features, longest)
        shared = nn.Parameter(torch.full((1, order), float(freq)))
        self.implicit_filter = _mlp(features, order, channels, shared)
        self.implicit_filter_rev = _mlp(features, order, channels, shared)
        self.modulation = _Modulation(channels)

    def taps(self, length: int) -> tuple[Tensor, Tensor]:
        """(kf, kr), each float32[H, length], without the bias."""
        with _float32(self.bias.device):
            z = self.pos_emb.z[0, :length]
            decay = torch.exp(-self.pos_emb.t[0, :length] * self.modulation.deltas[0].abs())
            forward, reverse = (
                (mlp(z) * decay).t() for mlp in (self.implicit_filter, self.implicit_filter_rev)
            )
        return forward, reverse

    def version(self) -> tuple[Any, ...]:
        """Changes whenever a tensor that the kernels depend on is written to, replaced or moved."""
        tensors = [*self.parameters(), self.pos_emb.t, self.modulation.deltas]
        return tuple((tensor.data_ptr(), tensor._version, tensor.device) for tensor in tensors)


class _Positions(nn.Module):
    """z: learned features [t, cos, -sin] of a position; t: the position itself, 0 to 1."""

    t: Tensor

    def __init__(self, features: int, longest: int) -> None:
        super().__init__()
        self.z = nn.Parameter(position_features(features, longest))
        self.register_buffer("t", times(longest))


class _Modulation(nn.Module):
    """deltas: how fast the taps of each channel decay over the whole length."""

    deltas: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("deltas", decays(channels))


class _Sine(nn.Module):
    def __init__(self, freq: nn.Parameter) -> None:
        super().__init__()
        self.freq = freq

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.freq * x)


def _mlp(features: int, order: int, channels: int, freq: nn.Parameter) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Linear(features, order), _Sine(freq)]
    for _ in range(2):
        layers += [nn.Linear(order, order), _Sine(freq)]
    return nn.Sequential(*layers, nn.Linear(order, channels, bias=False))


def times(longest: int) -> Tensor:
    """float32[1, longest, 1]: 0 to 1."""
    return _linspace(0, 1, longest)[None, :, None]


def _linspace(first: float, last: float, count: int) -> Tensor:
    """torch.linspace on the default device, which transformers' loading can make it forget."""
    return torch.linspace(first, last, count, device=torch.get_default_device())


def position_features(features: int, longest: int) -> Tensor:
    """float32[1, longest, features]: what z begins as."""
    bands = (features - 1) // 2
    angle = 2 * math.pi * torch.arange(longest, dtype=torch.float32)[:, None] / longest
    wave = angle * _linspace(1e-4, bands - 1, bands)[None]
    return torch.cat([times(longest)[0], torch.cos(wave), -torch.sin(wave)], dim=1)[None]


def decays(channels: int) -> Tensor:
    """float32[1, 1, channels]: ln(.01) / 1.5 for the slowest channel to ln(.01) / .3 for the fastest."""
    return _linspace(math.log(0.01) / 1.5, math.log(0.01) / 0.3, channels)[None, None]


def fast_length(least: int) -> int:
    """The smallest 2^a 3^b 5^c >= least, for which FFTs are fast. Even, as irfft likes it."""
    best = 1 << max(1, least - 1).bit_length()
    five = 1
    while five < best:
        three = five
        while three < best:
            two = three << max(1, -(-least // three) - 1).bit_length()
            if least <= two < best and two % 2 == 0:
                best = two
            three *= 3
        five *= 5
    return best


def spectrum(forward: Tensor, reverse: Tensor, bias: Tensor, length: int) -> Tensor:
    """complex64[H, n / 2 + 1]: the two-sided kernel of taps [H, >= length], with n = fast_length(2 length).

    The bias is a tap at distance 0; the reverse kernel begins at distance 1, which is place n - 1.
    """
    with _float32(bias.device):
        size = fast_length(2 * length)
        gap = forward.new_zeros(forward.shape[0], size - 2 * length)
        first = forward[:, :1] + bias[:, None]
        taps = torch.cat([first, forward[:, 1:length], gap, reverse[:, :length].flip(1)], dim=1)
        return cast(Tensor, torch.fft.rfft(taps.float()))


def convolve(x: Tensor, kernel: Tensor) -> Tensor:
    """float32[B, H, L]: x [B, H, L] convolved with a kernel from `spectrum` of that length."""
    with _float32(x.device):
        size = fast_length(2 * x.shape[-1])
        product = torch.fft.rfft(x.float(), n=size)
        product = product * kernel if torch.is_grad_enabled() else product.mul_(kernel)
        return cast(Tensor, torch.fft.irfft(product, n=size)[..., : x.shape[-1]])


@contextmanager
def _float32(device: torch.device) -> Iterator[None]:
    with torch.autocast(device.type, enabled=False):
        yield


class KernelCache:
    """Kernels of a model's filters by length, for as long as the weights stay what they are.

    Taps are kept for the longest text so far (their first rows serve shorter ones), spectra for the lengths
    that were used last. While the filters' parameters require gradients nothing is kept, not even without
    grad mode: fused optimizers write to weights without counting it as a change.
    """

    def __init__(self, filters: list[Filter]) -> None:
        self._filters = filters
        self._version: tuple[Any, ...] = ()
        self._taps: list[tuple[Tensor, Tensor]] = []
        self._spectra: OrderedDict[int, list[Tensor]] = OrderedDict()
        self.made = 0  # times that taps were made, for tests and figures

    def clear(self) -> None:
        """Forgets all kernels."""
        self._version, self._taps = (), []
        self._spectra.clear()

    def spectra(self, length: int) -> list[Tensor]:
        """One `spectrum` a filter, in their order."""
        if any(p.requires_grad for each in self._filters for p in each.parameters()):
            self.clear()
            self.made += 1
            return [spectrum(*each.taps(length), each.bias, length) for each in self._filters]
        version = tuple(item for each in self._filters for item in each.version())
        if version != self._version:
            self.clear()
            self._version = version
        found = self._spectra.get(length)
        if found is not None:
            self._spectra.move_to_end(length)
            return found
        with torch.no_grad():
            if not self._taps or self._taps[0][0].shape[1] < length:
                self._taps = [cast(Any, each.taps(length)) for each in self._filters]
                self.made += 1
            found = [
                spectrum(*taps, each.bias, length)
                for taps, each in zip(self._taps, self._filters, strict=True)
            ]
        self._spectra[length] = found
        while len(self._spectra) > 1 and self._bytes() > _SPECTRA_BYTES:
            self._spectra.popitem(last=False)
        return found

    def _bytes(self) -> int:
        return sum(each.nbytes for spectra in self._spectra.values() for each in spectra)
