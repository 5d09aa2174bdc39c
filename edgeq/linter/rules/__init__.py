"""The rules of quantized files that hold on every target, those that no kernel checks included.

The docstring of a rule is its only wording: messages and docs/targets.md are made of it.
"""

from __future__ import annotations

from edgeq.linter.rules.conversion_rules import conversion_pair, float_between_integers
from edgeq.linter.rules.kernel_rules import cell_state, constant_divisor, int16_form, op_version
from edgeq.linter.rules.rule import Rule
from edgeq.linter.rules.scale_rules import (
    fixed_output,
    missing_parameters,
    number_of_scales,
    per_channel_activation,
    same_scale,
    scale_positive,
    symmetric_int16,
    zero_point_range,
)
from edgeq.linter.rules.weight_rules import (
    bias_scale,
    bias_type,
    lowest_weight,
    shifted_weight,
    weight_axis,
    weight_zero_point,
)

RULES: tuple[Rule, ...] = (
    scale_positive, zero_point_range, number_of_scales, missing_parameters, symmetric_int16,
    per_channel_activation, same_scale, fixed_output, bias_type, bias_scale, weight_zero_point,
    shifted_weight, weight_axis, lowest_weight, constant_divisor, int16_form, cell_state,
    op_version, float_between_integers, conversion_pair,
)  # fmt: skip
"""All rules, in the order in which their findings are shown."""
