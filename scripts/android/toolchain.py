"""The tools of the build without the Android SDK: where they are and how they are called."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PROJECT = ROOT / "android_demo"
PACKAGES = PROJECT / "build" / "packages"
DEBIAN_JARS = Path("/usr/share/java")
PROGRAMS = ("aapt2", "apksigner", "clang", "dexdump", "enjarify", "javac", "ld.lld", "zipalign")
JUNIT = DEBIAN_JARS / "junit4.jar"
HAMCREST = DEBIAN_JARS / "hamcrest.jar"
PROGUARD = DEBIAN_JARS / "proguard.jar"
ANDROID_JSON = DEBIAN_JARS / "json-android.jar"
"""Android's own org.json, which android.jar has the declarations of."""
GET = "scripts/android_packages"

PACKAGE = "org.edgeq.demo"


def gradle_version(name: str) -> str:
    """A version of the app's version catalog, which Gradle and this build share."""
    text = (PROJECT / "gradle" / "libs.versions.toml").read_text(encoding="utf-8")
    (found,) = re.findall(rf'^{name} = "(.*)"$', text, re.MULTILINE)
    return str(found)


MIN_SDK = gradle_version("minSdk")
TARGET_SDK = gradle_version("targetSdk")

KOTLIN_FLAGS = ("-no-jdk", "-no-reflect", "-no-stdlib", "-jvm-target", "1.8", "-Werror")
JVM_FLAGS = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx1g")


def missing() -> list[str]:
    """What `scripts/android_packages` has not brought yet."""
    programs = [name for name in PROGRAMS if shutil.which(name) is None]
    files = (JUNIT, HAMCREST, PROGUARD, ANDROID_JSON, PACKAGES / "complete")
    return programs + [str(path) for path in files if not path.exists()]


def run(*command: str | Path, env: Mapping[str, str] | None = None) -> str:
    """The standard output of a program.

    Raises:
        SystemExit: It failed; the message has what it said.
    """
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=env)
    if done.returncode:
        raise SystemExit(f"{Path(words[0]).name} failed:\n{done.stdout}{done.stderr}")
    return str(done.stdout)


def classpath(*parts: Path) -> str:
    """As Java takes it."""
    return ":".join(map(str, parts))


def kotlinc(sources: Sequence[Path], output: Path, *libraries: Path) -> None:
    """Compiles the Kotlin files in some folders."""
    run(
        "java", *JVM_FLAGS, "-cp",
        classpath(PACKAGES / "kotlin-compiler.jar", PACKAGES / "kotlin-stdlib.jar"),
        "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler", *KOTLIN_FLAGS,
        "-cp", classpath(*libraries, PACKAGES / "android.jar", PACKAGES / "kotlin-stdlib.jar"),
        "-d", output, *sources,
    )  # fmt: skip


def shrink(classes: Path, output: Path) -> None:
    """Writes a .jar of the app's classes and those of Kotlin's library that they reach.

    Java 7 has neither lambdas nor default methods: ProGuard turns them into classes, as nothing
    else here does it. dx would pass on lambdas as instructions that no Android runs.
    """
    run(
        "java", *JVM_FLAGS, "-jar", PROGUARD,
        "-injars", classes, "-injars", f"{PACKAGES / 'kotlin-stdlib.jar'}(!META-INF/**)",
        "-outjars", output, "-libraryjars", PACKAGES / "android.jar", "-target", "1.7",
        "-dontoptimize", "-dontobfuscate", "-dontwarn", "**", "-dontnote", "**",
        "-keepattributes", "*", "-keep", f"class {PACKAGE}.** {{ *; }}",
    )  # fmt: skip


def dex(classes: Path, output: Path) -> None:
    """Turns the class files of a .jar into one .dex file."""
    run(
        "java", *JVM_FLAGS, "-jar", PACKAGES / "dx.jar", "--dex",
        f"--min-sdk-version={MIN_SDK}", f"--output={output}", classes,
    )  # fmt: skip


@dataclass(frozen=True)
class Abi:
    """A machine that LiteRT is there for.

    Attributes:
        name: As Android calls it, or `"host"` for this one.
        triple: As clang calls it.
    """

    name: str
    triple: str

    @property
    def library(self) -> Path:
        """The native LiteRT."""
        return PACKAGES / "lib" / self.name / "liblitert-lm.so"


HOST = Abi("host", "x86_64-linux-gnu")
ANDROID = (
    Abi("arm64-v8a", f"aarch64-linux-android{MIN_SDK}"),
    Abi("x86_64", f"x86_64-linux-android{MIN_SDK}"),
)


def build_bridge(abi: Abi, folder: Path) -> Path:
    """Compiles `litert_jni.c` into `libedgeq_jni.so`; one source for all machines."""
    headers = folder / "include"
    headers.mkdir(parents=True, exist_ok=True)
    (headers / "stdio.h").touch()  # jni.h includes it without need; there is no libc to build with
    jdk = Path(shutil.which("javac") or "").resolve().parent.parent / "include"
    output = folder / "libedgeq_jni.so"
    run(
        "clang", f"--target={abi.triple}", "-O2", "-Wall", "-Werror", "-fPIC", "-shared",
        "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-fvisibility=hidden",
        "-isystem", headers, "-isystem", jdk, "-isystem", jdk / "linux",
        "-fuse-ld=lld", "-Wl,-z,defs", "-Wl,--allow-shlib-undefined",
        # Devices with pages of 16 KiB refuse less.
        "-Wl,-z,max-page-size=16384", "-Wl,--hash-style=gnu", "-Wl,-soname,libedgeq_jni.so",
        "-o", output, PROJECT / "jni" / "src" / "main" / "c" / "litert_jni.c", abi.library,
    )  # fmt: skip
    return output
