"""Runs the JUnit tests of `android_demo/` on this machine's native LiteRT."""

from __future__ import annotations

import re
from pathlib import Path

from android.toolchain import (
    ANDROID_JSON,
    HAMCREST,
    HOST,
    JUNIT,
    PACKAGES,
    PROJECT,
    classpath,
    kotlinc,
    run,
)

SOURCES = [PROJECT / "core" / "src" / "test", PROJECT / "jni" / "src" / "test"]


def compile_tests(classes: Path, output: Path) -> None:
    """Compiles the tests against the app's classes."""
    kotlinc(SOURCES, output, classes, JUNIT)


def run_tests(classes: Path, tests: Path, bridge: Path, vectors: Path) -> int:
    """Runs all tests on the app's classes, a folder or a .jar.

    Args:
        classes: What is tested; classes of Kotlin's library in it give way to the whole library,
            as the tests need more of it than the app.
        tests: The compiled tests.
        bridge: Folder of the bridge for this machine.
        vectors: What Python computed.

    Returns:
        How many tests passed.

    Raises:
        SystemExit: One failed; the message has what JUnit said.
    """
    names = sorted(
        ".".join(path.relative_to(tests).with_suffix("").parts)
        for path in tests.rglob("*Test.class")
    )
    said = run(
        "java", f"-Djava.library.path={bridge}", f"-Dedgeq.vectors={vectors}", "-cp",
        classpath(PACKAGES / "kotlin-stdlib.jar", classes, tests, JUNIT, HAMCREST, ANDROID_JSON),
        "org.junit.runner.JUnitCore", *names, env={"LD_LIBRARY_PATH": str(HOST.library.parent)},
    )  # fmt: skip
    (passed,) = re.findall(r"^OK \((\d+) tests?\)$", said, re.MULTILINE)
    return int(passed)
