"""Tests of the line that errors name of a user's code."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgeq.foreign.code_lines import line_in, raised_line


def test_the_line_is_the_innermost_that_no_package_has() -> None:
    traceback = (
        '  File "/home/me/net.py", line 7, in forward\n    return self.act(x)\n'
        f'  File "{json.__file__}", line 9, in forward\n    return loads(x)\n'
    )
    assert line_in(traceback, ["json"]) == " (net.py:7: return self.act(x))"
    assert line_in(traceback, ["not_installed"]) == " (__init__.py:9: return loads(x))"
    assert line_in("", ["json"]) == ""
    without_code = '  File "<stdin>", line 3, in forward\n  File "<stdin>", line 1, in <lambda>\n'
    assert line_in(without_code, ["json"]) == " (<stdin>:1)"


def test_an_error_out_of_a_package_has_the_line_of_who_called_it() -> None:
    def read(text: str) -> Any:
        return json.loads(text)

    with pytest.raises(json.JSONDecodeError) as caught:
        read("{")
    assert raised_line(caught.value, ["json"]).endswith(": return json.loads(text))")
