"""How is a network one flat vector, and what is a training step on it?

This is the form in which algorithms see a network. Weights stay contiguous, in the
order of `Layout`. Speed comes from channels_last_3d inputs (tasks/inputs.py) and from
the norms of nets.py, which keep that format through the network.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from wardround.core.arrays import Layout
from wardround.core.errors import ModelRefused
from wardround.models.nets import Network, require_federable


def first_weights(spec: Network, seed: int) -> Tensor:
    """Return the weights from which a job with this seed starts.

    They are float32 [layout.total], on the CPU.
    """
    return torch.cat([block.detach().reshape(-1) for block in spec.build(seed).parameters()])


class FlatModel:
    """A network whose parameters are views into `vector`, their gradients into `grad`.

    Both are float32 [layout.total]. After this the module must not be moved or cast,
    because its parameters would leave the vector. A frozen parameter is trained like
    the others.
    half: Whether forward passes use bfloat16 autocast where the CUDA device supports
        it; weights, loss and gradient stay float32.

    ModelRefused is raised for BatchNorm, drifting buffers, and parameters that are not
    float32.
    """

    def __init__(
        self,
        module: nn.Module,
        device: str | torch.device = "cpu",
        *,
        half: bool = False,
    ) -> None:
        require_federable(module)
        self.device = torch.device(device)
        self.module = module.to(self.device)
        named = list(module.named_parameters())
        if not named:
            raise ModelRefused(
                "a network",
                found="no parameters",
                expected="at least one",
                fix="check the model settings",
            )
        self.layout = Layout(
            tuple(name for name, _ in named),
            tuple(tuple(block.shape) for _, block in named),
        )
        self.vector = torch.cat([block.detach().reshape(-1) for _, block in named])
        self.grad = torch.zeros_like(self.vector)
        self.half = half and self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        values, grads = (torch.split(flat, list(self.layout.sizes)) for flat in (self.vector, self.grad))
        self._blocks = [(block, grad.view(block.shape)) for (_, block), grad in zip(named, grads, strict=True)]
        for (block, grad), value in zip(self._blocks, values, strict=True):
            block.requires_grad_(True)
            block.data = value.view(block.shape)
            block.grad = grad
        self._spent: tuple[Tensor | None, ...] = ()

    def load(self, vector: Tensor) -> None:
        """Copy a vector of length layout.total into the weights.

        For the model's own `vector` nothing happens. ModelRefused is raised for another
        length.
        """
        if vector.shape != self.vector.shape:
            raise ModelRefused(
                "a vector of weights",
                found=f"shape {tuple(vector.shape)}",
                expected=f"shape {tuple(self.vector.shape)}",
                fix="use weights of this architecture",
            )
        # The model's own vector is in place already.
        if vector.data_ptr() != self.vector.data_ptr():
            self.vector.copy_(vector.detach())

    @torch.no_grad()
    def outputs(self, w: Tensor, images: Tensor) -> Tensor:
        """Return float32 network(images) at w, in evaluation mode, without gradient.

        A single volume on a CPU is computed beside a copy, as in `value_and_grad`.
        """
        self.load(w)
        self.module.eval()
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.half):
            found = self.module(images) if len(images) > 1 else self._single(images)
        return found.float()

    def value_and_grad(
        self,
        w: Tensor,
        images: Tensor,
        loss_fn: Callable[[Tensor], Tensor],
        *,
        dropout_seed: int | None = None,
    ) -> tuple[float, Tensor]:
        """Return (loss, gradient) of loss_fn(network(images)) at w, in train mode.

        images: float32 [B, C, D, H, W], faster in channels_last_3d, or whatever else
            the network takes, batch first.
        loss_fn: Returns a scalar for float32 logits [B, R, D, H, W].
        dropout_seed: The same seed gives the same dropout, and leaves the global random
            state as it was. None uses the global random state.

        The gradient is `grad` itself: the next call overwrites it. The weights stay at
        w. With one volume on a CPU a copy is computed too, its logits unused, because
        PyTorch is slow at single small volumes.
        """
        self.load(w)
        # The old gradients are freed here, so that this step can reuse their memory.
        self._spent = ()
        self.module.train()
        if dropout_seed is None:
            return self._backward(images, loss_fn)
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            if self.device.type == "cpu":
                # torch.manual_seed would also note, for GPUs that nobody uses here, where
                # it was called from; that takes longer than a layer of a small network.
                torch.default_generator.manual_seed(dropout_seed)
            else:
                torch.manual_seed(dropout_seed)
            return self._backward(images, loss_fn)

    def _backward(
        self,
        images: Tensor,
        loss_fn: Callable[[Tensor], Tensor],
    ) -> tuple[float, Tensor]:
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.half):
            logits = self.module(images) if len(images) > 1 else self._single(images)
        loss = loss_fn(logits.float())
        found = torch.autograd.grad(
            loss,
            [block for block, _ in self._blocks],
            allow_unused=True,
        )
        for (_, grad), own in zip(self._blocks, found, strict=True):
            grad.zero_() if own is None else grad.copy_(own)
        if self.device.type == "cpu":
            # Kept until the next step: otherwise glibc returns their memory to the system
            # and has to fetch it again in every step.
            self._spent = found
        return float(loss.detach()), self.grad

    def _single(self, images: Tensor) -> Tensor:
        if self.device.type != "cpu" or images.dim() != 5:
            return self.module(images)  # type: ignore[no-any-return]
        pair = images.repeat(2, 1, 1, 1, 1).contiguous(memory_format=torch.channels_last_3d)
        return self.module(pair)[:1]  # type: ignore[no-any-return]
