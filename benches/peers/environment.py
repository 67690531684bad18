"""What an engine needs to start: a Python environment, or a built program.

The requirements of a Python engine stand at the top of its file, as inline script metadata
(https://packaging.python.org/en/latest/specifications/inline-script-metadata/).
"""

import pathlib
import re
import shutil
import subprocess
import tomllib

HERE = pathlib.Path(__file__).resolve().parent
TARGET = HERE.parents[1] / "target" / "peers"
PYTHONS = ["python3", "python3.13", "python3.12", "python3.11", "python3.10", "python3.9"]


class Unavailable(Exception):
    """An engine cannot be had here."""


def run(command):
    """Runs a command that only its last words matter of, when it fails."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        errors = [line for line in lines if re.match(r"(?i)error", line)]
        raise Unavailable((errors or lines[-1:] or [f"{command[0]} failed"])[0])


def metadata(path):
    """The inline script metadata of a Python file."""
    block = re.search(r"^# /// script\n((?:#.*\n)+?)# ///$", path.read_text(), re.MULTILINE)
    if block is None:
        raise ValueError(f"{path}: no script metadata")
    return tomllib.loads("".join(line[1:].removeprefix(" ") + "\n" for line in block[1].splitlines()))


def find_python(requirement):
    """The first interpreter on the path that `requires-python`, a list of `>=3.8` and `<3.12`, allows."""
    bounds = re.findall(r"(>=|<)3\.(\d+)", requirement)
    for name in filter(shutil.which, PYTHONS):
        script = "import sys; print(sys.version_info[1])"
        done = subprocess.run([name, "-c", script], capture_output=True, text=True, check=False)
        if done.returncode == 0 and all(
            (int(done.stdout) >= int(minor)) == (operator == ">=") for operator, minor in bounds
        ):
            return name
    raise Unavailable(f"needs Python {requirement}, none such is on the path")


def python_engine(name):
    """The command of `engines/NAME.py`, after making its environment."""
    wanted = metadata(HERE / "engines" / f"{name}.py")
    requirements = "\n".join(wanted["dependencies"])
    folder = TARGET / "environments" / name
    python, stamp = folder / "bin" / "python", folder / "requirements.txt"
    if not stamp.is_file() or stamp.read_text() != requirements:
        shutil.rmtree(folder, ignore_errors=True)
        run([find_python(wanted["requires-python"]), "-m", "venv", folder])
        run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted["dependencies"]])
        stamp.write_text(requirements)
    return [python, HERE / "python_worker.py", name]


def rust_engine(name):
    """The command of `worker/src/bin/NAME.rs`, after building it."""
    manifest, target = HERE / "worker" / "Cargo.toml", TARGET / "worker"
    # Not --locked: the lock file need not follow each change of Poda's own dependencies.
    cargo = ["cargo", "build", "--release", "--quiet", f"--manifest-path={manifest}"]
    run([*cargo, f"--target-dir={target}", f"--bin={name}", f"--features={name}"])
    return [target / "release" / name]


def command(name):
    """The command that starts an engine.

    Raises Unavailable with the reason when it cannot be installed or built.
    """
    return python_engine(name) if (HERE / "engines" / f"{name}.py").exists() else rust_engine(name)
