"""Convolutions that mix space and channels at once, where two would do."""

from paring.audit.finding import Finding, counted, graded, places
from paring.audit.subject import Subject
from paring.graphs.names import place

_MIN_CHANNELS = 8
"""A first convolution, of an image's few channels, has little to separate."""
_MIN_SHARE = 0.05


def standard_convolutions(subject: Subject) -> list[Finding]:
    """Find convolutions that depthwise-separable ones could replace, and what that saves.

    A kernel of k by k weights over c channels costs k*k*c operations for each of the
    outputs; a depthwise convolution and a product of 1 by 1 cost k*k + c: Howard and
    others, "MobileNets", 2017 (arXiv:1704.04861), section 3.1.
    """
    saved: dict[str, int] = {}
    total = 0
    for op in subject.live:
        kernel = op.inputs[1].shape if op.type == "Conv2D" else None
        if kernel is None or not kernel.is_fully_defined() or not subject.flops[op.name]:
            continue
        height, width, channels_in, channels_out = kernel.as_list()
        in_one_group = op.inputs[0].shape[-1 if op.get_attr("data_format") == b"NHWC" else 1]
        if height * width == 1 or channels_in < _MIN_CHANNELS or in_one_group != channels_in:
            continue
        left = (height * width + channels_out) / (height * width * channels_out)
        saved[place(op)] = int(subject.flops[op.name] * (1 - left))
        total += subject.flops[op.name]
    share = subject.share(sum(saved.values()))
    if share < _MIN_SHARE:
        return []
    named = sorted(saved, key=lambda name: -saved[name])
    return [
        Finding(
            rule="standard_convolutions",
            severity=graded(share),
            place=places(named),
            cost=f"{counted(len(saved), 'convolution')} with {total:,} operations an example, of"
            f" which {sum(saved.values()):,} or {share:.0%} of the model's could go",
            fix="SeparableConv2D in place of Conv2D, trained again, or distill the model into a"
            " network that is built so; accuracy has to be measured",
        )
    ]
