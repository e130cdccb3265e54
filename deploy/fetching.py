"""What the real servers need: a Java of this machine, and what Maven fetches for this checkout, once."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
KAFKA_LIB: Final = ROOT / ".kafka" / "lib"
REGISTRY_DIR: Final = ROOT / ".apicurio"
COPY: Final = "org.apache.maven.plugins:maven-dependency-plugin:3.11.0:copy-dependencies"
FETCH_PAUSES_S: Final = (0, 3, 10)
"""Maven is asked so often, after so long: a network fails now and then."""
LOG_TAIL: Final = 4_000


class ServerFailed(Exception):
    """A server could not be fetched or did not come up; the message holds the end of its log."""


def why_not(java: int = 17) -> str | None:
    """Return why the servers can't run on this machine, or None when they can."""
    if shutil.which("mvn") is None and not KAFKA_LIB.is_dir():
        return "Maven (mvn) is not installed, and it fetches Apache Kafka"
    if find_java(java) is None:
        return f"no Java of version {java} or newer was found"
    return None


def find_java(least: int) -> str | None:
    """Return a `java` of at least this version: the one of the path, else one beside it."""
    candidates = [shutil.which("java") or "", *(str(p) for p in Path("/usr/lib/jvm").glob("*/bin/java"))]
    home = os.environ.get("JAVA_HOME")
    if home:
        candidates.insert(0, str(Path(home) / "bin" / "java"))
    return next((path for path in candidates if path and _major(path) >= least), None)


@cache
def java_version(java: str) -> str:
    """Return what a `java` calls its version ("17.0.15"), or "0" for none that can be asked."""
    try:
        said = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=120, check=False)
        return said.stderr.split('"')[1]
    except (OSError, IndexError, subprocess.TimeoutExpired):
        return "0"


def _major(java: str) -> int:
    number = java_version(java).removeprefix("1.").split(".")[0]
    return int(number) if number.isdecimal() else 0


def fetch_kafka() -> None:
    """Fetch Kafka's jars once."""
    with one_at_a_time():
        if not list(KAFKA_LIB.glob("kafka_*.jar")):
            with _arriving(KAFKA_LIB) as out:
                _maven(ROOT / "deploy" / "kafka" / "pom.xml", out)


def fetch_registry() -> None:
    """Fetch and unpack the registry once."""
    with one_at_a_time():
        if list(REGISTRY_DIR.rglob("quarkus-run.jar")):
            return
        with _arriving(REGISTRY_DIR) as out:
            _maven(ROOT / "deploy" / "registry" / "pom.xml", out)
            with tarfile.open(next(out.glob("*.tar.gz"))) as archive:
                archive.extractall(out, filter="data")


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Let no other process of this checkout fetch or make the same: one would replace what another made."""
    place = os.open(ROOT / "deploy", os.O_RDONLY)
    try:
        fcntl.flock(place, fcntl.LOCK_EX)
        yield
    finally:
        os.close(place)


@contextlib.contextmanager
def _arriving(place: Path) -> Iterator[Path]:
    """Yield a directory that becomes `place` once it is whole: no half of it is ever taken for all."""
    place.parent.mkdir(parents=True, exist_ok=True)
    arriving = Path(tempfile.mkdtemp(prefix=f"{place.name}-", dir=place.parent))
    try:
        yield arriving
        arriving.chmod(0o755)
        shutil.rmtree(place, ignore_errors=True)
        arriving.replace(place)
    finally:
        shutil.rmtree(arriving, ignore_errors=True)


def _maven(pom: Path, out: Path) -> None:
    command = ["mvn", "-q", "-B", "-f", str(pom), COPY, "-DincludeScope=runtime", f"-DoutputDirectory={out}"]
    said = ""
    for pause_s in FETCH_PAUSES_S:
        time.sleep(pause_s)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not done.returncode:
            return
        said = done.stdout + done.stderr
    raise ServerFailed(f"Maven could not fetch {pom.parent.name}:\n{said[-LOG_TAIL:]}")
