"""The sliding window of a convolution or pool along one side of the image."""

from __future__ import annotations

from dataclasses import dataclass

from edgeq.export.rewrite.base import Shape, Site
from edgeq.flatbuffer import Operator, schema


@dataclass(frozen=True)
class Window:
    """One side of what a window slides over.

    Attributes:
        size: Length of the side.
        kernel: Length of the window, gaps of a dilation included.
        stride: Step between two outputs.
        outputs: Number of outputs.
        before: Rows of padding before the first.
        after: Rows of padding behind the last that are really read.
    """

    size: int
    kernel: int
    stride: int
    outputs: int
    before: int
    after: int

    @property
    def is_padded(self) -> bool:
        """Whether any window reaches over the edge."""
        return self.before > 0 or self.after > 0

    @property
    def is_same(self) -> bool:
        """Whether this is what the padding SAME does."""
        outputs, total = _same(self.size, self.kernel, self.stride)
        return (self.outputs, self.before, self.before + self.after) == (
            outputs, total // 2, total,
        )  # fmt: skip

    def without(self, before: int, after: int) -> Window | None:
        """The window over the side without its first and last rows, which become padding.

        None if a window would lie in the padding alone.
        """
        size = self.size - before - after
        needed = (self.outputs - 1) * self.stride + self.kernel - size - before
        if size < 1 or before >= self.kernel or needed >= self.kernel:
            return None
        return Window(size, self.kernel, self.stride, self.outputs, before, max(needed, 0))


def _same(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Number of outputs and rows of padding of SAME."""
    outputs = -(-size // stride)
    return outputs, max((outputs - 1) * stride + kernel - size, 0)


def windows(site: Site, op: Operator) -> tuple[Window, Window]:
    """The window of a convolution or pool along height and width."""
    options = op.options
    if hasattr(options, "filterHeight"):
        kernels: Shape = (options.filterHeight, options.filterWidth)
        dilations = (1, 1)
    else:
        kernels = site.shape(op.inputs[1])[1:3]
        dilations = (options.dilationHFactor, options.dilationWFactor)
    strides = (options.strideH, options.strideW)
    source, target = site.shape(op.inputs[0])[1:3], site.shape(op.outputs[0])[1:3]
    found = []
    for size, kernel, dilation, stride, outputs in zip(
        source, kernels, dilations, strides, target, strict=True
    ):
        extent = (kernel - 1) * dilation + 1
        total = 0
        if options.padding == schema.Padding.SAME:
            total = _same(size, extent, stride)[1]
        found.append(Window(size, extent, stride, outputs, total // 2, total - total // 2))
    return found[0], found[1]
