"""Batch normalisation over the samples of all processes, as if one process had them all."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.distributed import sum_over_ranks

PLACES = (0, 2, 3)  # of (N, C, H, W): all but the channels


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose mean and variance are those of all ranks' samples. Tensors and eval mode are the same.

    All ranks must call it, with any number of samples each. `nn.SyncBatchNorm` does this on GPUs alone.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape and type. Sums are in float32 at least."""
        if not self.training:
            return super().forward(x)
        normalised, mean, variance, count = _Normalised.apply(x, self.weight, self.bias, self.eps)
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            unbiased = variance * (count / (count - 1))
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        return normalised


def with_synced_batch_norm(module: nn.Module) -> nn.Module:
    """Replace the `nn.BatchNorm2d` layers inside a module; returns the module. All names and values of tensors stay."""
    for name, layer in list(module.named_modules()):
        if type(layer) is nn.BatchNorm2d:
            synced = SyncedBatchNorm2d(layer.num_features, eps=layer.eps, momentum=layer.momentum)
            synced.load_state_dict(layer.state_dict())
            module.set_submodule(name, synced)
    return module


class _Normalised(torch.autograd.Function):
    """x, weight, bias, eps -> weight * (x - mean) / sqrt(variance + eps) + bias, mean, variance, number of values.

    Source: Ioffe and Szegedy, Batch Normalization (ICML 2015), Algorithm 1 and the gradients of Section 3.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        own_count = wide.new_tensor([x.numel() / x.shape[1]])
        *_, count = sums = sum_over_ranks(torch.cat([wide.sum(dim=PLACES), own_count]))  # (C + 1,)
        mean = sums[:-1] / count
        # A second round: the mean of squares minus the square of the mean would lose digits.
        variance = sum_over_ranks((wide - _spread(mean)).square().sum(dim=PLACES)) / count
        scale = (variance + eps).rsqrt()
        ctx.save_for_backward(x, weight, mean, scale, count)
        ctx.mark_non_differentiable(mean, variance, count)
        normalised = F.batch_norm(wide, mean, variance, weight, bias, training=False, eps=eps)
        return normalised.to(x.dtype), mean, variance, count

    @staticmethod
    def backward(ctx, gradient: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, scale, count = ctx.saved_tensors
        standard = (x.to(mean.dtype) - _spread(mean)) * _spread(scale)
        wide = gradient.to(mean.dtype)
        of_bias, of_weight = wide.sum(dim=PLACES), (wide * standard).sum(dim=PLACES)  # of this rank's samples
        # The mean and the variance depend on all ranks' samples, so all their gradients flow to each sample.
        mean_of_bias, mean_of_weight = (sum_over_ranks(torch.stack([of_bias, of_weight])) / count).unbind()
        centred = wide - _spread(mean_of_bias) - standard * _spread(mean_of_weight)
        return (centred * _spread(weight * scale)).to(x.dtype), of_weight, of_bias, None


def _spread(values: Tensor) -> Tensor:
    """(C,) -> (1, C, 1, 1)."""
    return values[None, :, None, None]
