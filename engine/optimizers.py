"""The optimiser that a config names (Adam, AdamW, Muon with Adam, SOAP, schedule-free), and its learning rate.

Muon is for the weights of hidden convolutions. It smooths the gradient of a weight matrix by momentum and replaces it
by the nearest orthogonal matrix, so that all directions of a layer learn at the same speed. Its author leaves biases
and the first and last layer to Adam, and so do we. Source: Jordan et al., Muon: An optimizer for hidden layers in
neural networks (2024). `torch.optim.Muon` takes matrices only, not the weights of convolutions.

SOAP is that of `pytorch-optimizer`: Adam in the eigenbases of Shampoo's preconditioner, one for each dimension of a
weight. Source: Vyas et al., SOAP: Improving and stabilizing Shampoo using Adam (2024).

The schedule-free one is AdamW of the same library. It averages its iterates in place of lowering the rate
(`engine/ema.py` has the average). Source: Defazio et al., The Road Less Scheduled (2024).
"""

import math
from collections.abc import Iterable
from functools import cache

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from common.machine import choose_precision
from engine.config import OptimConfig
from engine.ema import AveragedWeights, ExponentialMovingAverage, ScheduleFreeAverage

# Newton-Schulz iteration of the source: X <- a X + (b A + c A A) X with A = X X^T. Five rounds take singular values
# between 0 and 1 to about 1.
NEWTON_SCHULZ_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_ROUNDS = 5
SOAP_LARGEST_SIZE = 10_000  # a larger dimension of a weight goes without its matrices


def learning_rate(config: OptimConfig, step: int, share: float) -> float:
    """The learning rate of a step.

    Args:
        config: peak, warm-up and schedule.
        step: number of steps done, for the warm-up.
        share: share of the run that is done, 0..1, for the cosine.
    """
    warmup = min((step + 1) / (config.lr_warmup_steps + 1), 1.0)
    if config.schedule == "constant":
        return config.lr * warmup
    cosine = 0.5 * (1 + math.cos(math.pi * share))
    return config.lr * warmup * (config.final_lr_ratio + (1 - config.final_lr_ratio) * cosine)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give each parameter group its `lr_share` of the rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_share"]


def build_optimizer(module: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """The optimiser of a config, over the trainable parameters.

    If its attribute `found_inf` (a tensor, as `torch.amp.GradScaler` sets it) is 1, a step changes nothing.

    Raises:
        ValueError: if `optim.adam_layers` names a layer that the module does not have.
    """
    trainable = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    if config.name == "muon":
        return _build_muon(trainable, config)
    if config.name in ("soap", "schedule_free"):
        return _build_of_library(trainable, config)
    kind = torch.optim.AdamW if config.name == "adamw" or config.weight_decay else torch.optim.Adam
    groups = [{"params": list(trainable.values()), "lr_share": 1.0}]
    # Fused: one pass over the parameters, and the only kind that reads `found_inf`.
    return kind(groups, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=True)


def build_average(module: nn.Module, optimizer: torch.optim.Optimizer, config: OptimConfig) -> AveragedWeights | None:
    """The average of a module's weights that is validated and published; None: the weights themselves are."""
    if not config.has_average:
        return None
    if config.name == "schedule_free":
        return ScheduleFreeAverage(module, optimizer=optimizer)
    return ExponentialMovingAverage(module, decay=config.ema_decay)


def is_for_muon(name: str, parameter: nn.Parameter, config: OptimConfig) -> bool:
    """Whether Muon trains a parameter: the weight of a convolution, not in one of `optim.adam_layers`."""
    return config.name == "muon" and parameter.ndim == 4 and not set(name.split(".")) & set(config.adam_layers)


def _build_muon(trainable: dict[str, nn.Parameter], config: OptimConfig) -> "Muon":
    layers = {part for name in trainable for part in name.split(".")[:-1]}
    unknown = sorted(set(config.adam_layers) - layers)
    if unknown:
        raise ValueError(
            f"optim.adam_layers names '{unknown[0]}', but no trainable layer has this name; "
            f"give the network's first and last layer"
        )
    for_muon, for_adam = [], []
    for name, parameter in trainable.items():
        (for_muon if is_for_muon(name, parameter, config) else for_adam).append(parameter)
    groups = [
        {"params": for_muon, "is_muon": True, "lr": config.lr, "lr_share": 1.0},
        # "fused" tells torch's load_state_dict to put Adam's step counts on the parameters' device.
        {
            "params": for_adam,
            "is_muon": False,
            "lr": config.adam_lr,
            "lr_share": config.adam_lr / config.lr,
            "fused": True,
        },
    ]
    return Muon(groups, lr=config.lr, momentum=config.momentum, betas=config.betas, weight_decay=config.weight_decay)


def _build_of_library(trainable: dict[str, nn.Parameter], config: OptimConfig) -> torch.optim.Optimizer:
    from pytorch_optimizer import SOAP, ScheduleFreeAdamW  # here, because importing it takes seconds

    class Guarded({"soap": SOAP, "schedule_free": ScheduleFreeAdamW}[config.name]):
        found_inf: Tensor | None = None  # read on the host, so a step waits for the GPU: the library has no such flag

        def step(self, closure: None = None) -> None:
            if self.found_inf is None or not self.found_inf.item():
                super().step(closure)

    groups = [{"params": list(trainable.values()), "lr_share": 1.0}]
    extra = {"max_precondition_dim": SOAP_LARGEST_SIZE} if config.name == "soap" else {}
    return Guarded(groups, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, **extra)


class Muon(torch.optim.Optimizer):
    """Muon for the parameter groups with `is_muon`, Adam for the others.

    Args:
        groups: parameter groups with `params` and `is_muon`.
        lr: learning rate, > 0.
        momentum: decay of Muon's average of gradients; the step is Nesterov's.
        betas: Adam's two decay rates.
        weight_decay: decoupled, for all groups.
    """

    def __init__(
        self, groups: Iterable[dict], *, lr: float, momentum: float, betas: tuple[float, float], weight_decay: float
    ) -> None:
        self.found_inf: Tensor | None = None
        defaults = {"lr": lr, "momentum": momentum, "betas": tuple(betas), "weight_decay": weight_decay}
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update the parameters that have a gradient, unless `found_inf` is 1."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if group["is_muon"]:
                self._step_muon(parameters, group)
            elif parameters:
                self._step_adam(parameters, group)

    def _step_muon(self, parameters: list[Tensor], group: dict) -> None:
        by_shape: dict[tuple[int, int], list[Tensor]] = {}  # matrices of one shape are updated as one batch
        for parameter in parameters:
            by_shape.setdefault((parameter.shape[0], parameter[0].numel()), []).append(parameter)
        decay = 1 - group["lr"] * group["weight_decay"]
        for (rows, columns), alike in by_shape.items():
            for parameter in alike:
                if not self.state[parameter]:
                    self.state[parameter]["momentum"] = torch.zeros_like(parameter)
            averages = [self.state[parameter]["momentum"] for parameter in alike]
            gradients = _stacked([parameter.grad for parameter in alike])
            average = _stacked(averages).lerp(gradients, 1 - group["momentum"])
            direction = gradients.lerp(average, group["momentum"])  # Nesterov's: the gradient led by the average
            update = orthogonalized(direction) * max(1, rows / columns) ** 0.5
            self._assign(alike, _stacked(alike) * decay - group["lr"] * update)
            self._assign(averages, average)

    def _step_adam(self, parameters: list[Tensor], group: dict) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter].update(
                    step=torch.zeros((), dtype=torch.float32, device=parameter.device),
                    exp_avg=torch.zeros_like(parameter),
                    exp_avg_sq=torch.zeros_like(parameter),
                )
        if group["weight_decay"]:
            decay = 1 - group["lr"] * group["weight_decay"]
            if self.found_inf is not None:
                decay = torch.where(self.found_inf.bool(), 1.0, decay)
            torch._foreach_mul_(parameters, decay)
        states = [self.state[parameter] for parameter in parameters]
        adam(
            parameters,
            [parameter.grad for parameter in parameters],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],  # maxima of exp_avg_sq, for AMSGrad
            [state["step"] for state in states],
            fused=True,
            found_inf=self.found_inf,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=0.0,  # done above, decoupled
            eps=1e-8,
            maximize=False,
        )

    def _assign(self, old: list[Tensor], new: Tensor) -> None:
        """Put new values (as `_stacked` returns them) in place, unless `found_inf` is 1. The choice is made on the
        device, without a sync."""
        if self.found_inf is not None:
            new = torch.where(self.found_inf.bool(), _stacked(old), new)
        torch._foreach_copy_(old, [part.reshape(tensor.shape) for part, tensor in zip(new, old, strict=True)])


def _stacked(tensors: list[Tensor]) -> Tensor:
    """Tensors of one number of rows and of elements as matrices, (n, rows, columns). It is a copy."""
    return torch.stack([tensor.flatten(1) for tensor in tensors])


def orthogonalized(matrices: Tensor) -> Tensor:
    """Matrices with the same singular vectors, and singular values of about 1 (0.7 to 1.2).

    Args:
        matrices: (n, rows, columns), of any scale. The iteration runs in `iteration_dtype`.

    Returns:
        Same shape and type. Singular values below about a thousandth of the matrix's norm stay smaller.
    """
    a, b, c = NEWTON_SCHULZ_COEFFICIENTS
    x = matrices.to(iteration_dtype(matrices.device))
    is_tall = x.shape[-2] > x.shape[-1]
    x = x.mT if is_tall else x  # X X^T is the smaller product of the two
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(NEWTON_SCHULZ_ROUNDS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if is_tall else x).to(matrices.dtype)


@cache
def iteration_dtype(device: torch.device) -> torch.dtype:
    """Bfloat16, as in the source. Float32 on a CPU without bfloat16 instructions: there it is 14 times faster."""
    return choose_precision("auto", device)
