"""Fetches archives of package registries, once, with the tools that this machine has set up.

npm, pip and apt know where their registries are; nothing else here does. An archive is kept in the
cache directory and used only if it is the very file that is meant. Knows nothing of what is inside.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

FETCH_TIMEOUT_S = 600

# The wheels whose data is meant, whatever Python runs here: they are read, not installed.
_WHEEL_PLATFORM = (
    "--only-binary=:all: --python-version=3.11 --implementation=cp "
    "--platform=manylinux_2_28_x86_64 --platform=manylinux_2_27_x86_64 "
    "--platform=manylinux_2_24_x86_64"
)


class Unavailable(Exception):  # noqa: N818 - a state of the machine, not a fault
    """Something is not on this machine; the message says which command gets it."""


@dataclass(frozen=True)
class Archive:
    """One file of a registry.

    Attributes:
        file: Its name, which is also that in the cache directory.
        sha256: Of its content, in hexadecimal.
        command: What leaves it in the current directory.
        also: Arguments of the command that make no difference to the result.
    """

    file: str
    sha256: str
    command: str
    also: str = ""

    def path(self) -> Path:
        """Where it is; fetched if need be.

        Raises:
            Unavailable: It is not there and cannot be fetched, or is not the file that is meant.
        """
        path = cache_directory() / self.file
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fetch-") as scratch:
                self._fetch(Path(scratch))
                (Path(scratch) / self.file).replace(path)
        self._check(path)
        return path

    def read(self, wanted: Callable[[str], bool]) -> dict[str, bytes]:
        """Content of the files inside that `wanted` accepts by their path, by path."""
        path = self.path()
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as wheel:
                return {name: wheel.read(name) for name in wheel.namelist() if wanted(name)}
        if path.suffix == ".deb":
            _check_tool("dpkg-deb", "it is part of Debian and Ubuntu")
            command = ["dpkg-deb", "--fsys-tarfile", str(path)]
            with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
                return _tar_members(tarfile.open(fileobj=process.stdout, mode="r|"), wanted)
        return _tar_members(tarfile.open(path, "r|*"), wanted)

    def read_one(self, name: str) -> bytes:
        """Content of the file whose path ends with `name`."""
        ((_, content),) = self.read(lambda path: path.endswith(name)).items()
        return content

    def _fetch(self, scratch: Path) -> None:
        by_hand = f"`cd {shlex.quote(str(cache_directory()))} && {self.command}`"
        command = shlex.split(f"{self.command} {self.also.format(scratch=scratch)}")
        tool = command[0]
        _check_tool(tool, f"{self.file} is fetched with it; then run {by_hand}")
        if command[:2] == ["python", "-m"]:
            command[0] = sys.executable
        _run(command, scratch, self.file, by_hand)
        if not (scratch / self.file).is_file():
            made = ", ".join(sorted(p.name for p in scratch.iterdir() if p.is_file()))
            raise Unavailable(f"{tool} fetched {made or 'nothing'} instead of {self.file}")

    def _check(self, path: Path) -> None:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != self.sha256:
            raise Unavailable(
                f"{path} is not the file that is meant (sha256 {found}, expected {self.sha256}); "
                "delete it to fetch it anew"
            )


def npm(name: str, version: str, sha256: str) -> Archive:
    """A package of npm's registry."""
    file = f"{name.replace('@', '').replace('/', '-')}-{version}.tgz"
    return Archive(
        file, sha256, f"npm pack {name}@{version}", "--cache {scratch}/npm --fetch-retries 1"
    )


def wheel(file: str, name: str, version: str, sha256: str, architecture: str = "x86_64") -> Archive:
    """A wheel of the registry that pip uses."""
    platform = _WHEEL_PLATFORM.replace("x86_64", architecture)
    command = f"python -m pip download --no-deps {platform} {name}=={version}"
    return Archive(file, sha256, command, "--quiet")


def sdist(file: str, name: str, version: str, sha256: str) -> Archive:
    """A source distribution of the registry that pip uses."""
    command = f"python -m pip download --no-deps --no-binary=:all: {name}=={version}"
    return Archive(file, sha256, command, "--quiet")


def deb(file: str, name: str, version: str, sha256: str) -> Archive:
    """A binary package of the mirror that apt uses."""
    return Archive(file, sha256, f"apt-get download {name}={version}", "--quiet")


def debian_source(file: str, name: str, version: str, sha256: str) -> Archive:
    """The upstream archive of a source package of the mirror that apt uses."""
    return _DebianSource(file, sha256, f"apt-get source --download-only {name}={version}")


def foreign_debs(architecture: str, wanted: Mapping[str, str]) -> list[Archive]:
    """Binary packages of another architecture, of the mirror that apt uses, fetched in one go.

    Args:
        architecture: Debian's name of it, for example `"arm64"`.
        wanted: SHA-256 by file name, `<package>_<version>_<architecture>.deb`.
    """
    archives = []
    for file, sha256 in wanted.items():
        name, version, _ = file.split("_")
        package = f"{name}={version.replace('%3a', ':')}"
        archives.append(Archive(file, sha256, f"apt-get download {package}"))
    missing = [a for a in archives if not (cache_directory() / a.file).is_file()]
    if missing:
        _fetch_foreign(architecture, missing)
    return archives


def _fetch_foreign(architecture: str, archives: Sequence[Archive]) -> None:
    file = archives[0].file
    by_hand = f"apt-get download on a machine of architecture {architecture}"
    _check_tool("apt-get", f"{file} is fetched with it, on Debian or Ubuntu")
    cache_directory().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_directory(), prefix=".fetch-") as name:
        scratch = Path(name)
        form = f"deb [arch={architecture}] $(REPO_URI) $(RELEASE) $(COMPONENT)"
        apt = [
            *_apt_of_its_own(scratch, form, file, by_hand),
            "-o", f"APT::Architecture={architecture}", "-o", f"APT::Architectures={architecture}",
        ]  # fmt: skip
        _run([*apt, "update"], scratch, file, by_hand)
        packages = [a.command.split()[-1] for a in archives]
        _run([*apt, "download", *packages], scratch, file, by_hand)
        for archive in archives:
            if (scratch / archive.file).is_file():
                (scratch / archive.file).replace(cache_directory() / archive.file)


def _apt_of_its_own(scratch: Path, form: str, file: str, by_hand: str) -> list[str]:
    """apt-get with lists of its own in `scratch`, of the mirrors of this machine.

    Args:
        scratch: Folder for the lists.
        form: Line of a sources.list, in the form of `apt-get indextargets`.
        file: What is fetched, for errors.
        by_hand: How to fetch it otherwise.
    """
    sources, state = scratch / "sources.list", scratch / "status"
    (scratch / "lists" / "partial").mkdir(parents=True)
    command = ["apt-get", "indextargets", "--format", form, "Created-By: Packages"]
    lines = _run(command, scratch, file, by_hand).splitlines()
    sources.write_text("".join(f"{line}\n" for line in sorted(set(lines))))
    state.touch()
    options = {
        "Dir::Etc::SourceList": sources,
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": scratch / "lists",
        "Dir::State::status": state,
        "Dir::Cache": scratch,
        "APT::Sandbox::User": "",
    }
    return ["apt-get", *(w for name, value in options.items() for w in ("-o", f"{name}={value}"))]


class _DebianSource(Archive):
    """Adds source packages to apt's lists, which machines seldom have, in the scratch folder."""

    def _fetch(self, scratch: Path) -> None:
        _check_tool("apt-get", f"{self.file} is fetched with it, on Debian or Ubuntu")
        by_hand = f"`{self.command}`"
        form = "deb-src $(REPO_URI) $(RELEASE) $(COMPONENT)"
        apt = _apt_of_its_own(scratch, form, self.file, by_hand)
        _run([*apt, "update"], scratch, self.file, by_hand)
        _run([*apt, *self.command.split()[1:]], scratch, self.file, by_hand)


def cache_directory() -> Path:
    """Where fetched archives are kept: `$EDGEQ_TEST_CACHE`, by default `~/.cache/edgeq-tests`."""
    return Path(os.environ.get("EDGEQ_TEST_CACHE") or "~/.cache/edgeq-tests").expanduser()


def _check_tool(tool: str, why: str) -> None:
    if tool != "python" and shutil.which(tool) is None:
        raise Unavailable(f"{tool} is missing; {why}")


def _run(command: Sequence[str], folder: Path, file: str, by_hand: str) -> str:
    """What a command prints; one that fails says what is missing and how to get it."""
    try:
        return subprocess.run(
            command, cwd=folder, check=True, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S
        ).stdout
    except subprocess.TimeoutExpired:
        why = f"not done in {FETCH_TIMEOUT_S} s"
    except subprocess.CalledProcessError as error:
        why = _reason(error.stderr)
    raise Unavailable(
        f"{file} is missing and {Path(command[0]).name} could not fetch it ({why}); run {by_hand}"
    )


def _reason(log: str) -> str:
    """The first error in the log of npm, pip or apt, without its marks."""
    for line in log.splitlines():
        for mark in ("npm error ", "npm ERR! ", "ERROR: ", "E: "):
            if line.startswith(mark):
                return line.removeprefix(mark)
    return "no reason given"


def _tar_members(archive: tarfile.TarFile, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    content = {}
    with archive:
        for member in archive:
            stream = archive.extractfile(member) if wanted(member.name) else None
            if stream is not None:
                content[member.name] = stream.read()
    return content
