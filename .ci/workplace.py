# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the sessions of the noxfile run: Pythons, ansible-cores, homes, and copies of the checkout.

Nothing is written outside the checkout, only to build/, .nox/ and .ansible/.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import nox

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build"
COLLECTIONS = ROOT / ".ansible" / "collections"
_CHECKOUT = COLLECTIONS / "ansible_collections" / "virtops" / "qmp"
_HOME = Path.home()

# Each ansible-core that the collection supports: the Pythons its controller runs on (3.x), and the pip that its
# ansible-test puts into the environments it makes.
CORES = {
    "2.17": (range(10, 13), "23.1.2"),
    "2.18": (range(11, 14), "24.2"),
    "2.19": (range(11, 14), "24.2"),
    "2.20": (range(12, 15), "25.2"),
    "2.21": (range(12, 15), "25.2"),
    "2.22": (range(13, 16), "25.2"),
}
# Those that are not out yet, with what there is of them before. They run when they are named.
CANDIDATES = {"2.22": "2.22.0rc1"}


def prepare() -> None:
    """Set what every session, and every program that it starts, finds in its environment; make the folders."""
    os.environ["PATH"] = os.pathsep.join([*_interpreters(), os.environ["PATH"]])
    # ansible-lint, antsibull-docs and ansible itself write to the home of whoever runs them.
    os.environ["HOME"] = str(_home_for("nox"))
    os.environ["LC_ALL"] = "C.UTF-8"
    os.environ["ANSIBLE_COLLECTIONS_PATH"] = str(COLLECTIONS)
    # git refuses to read a checkout of somebody else, which is what a CI service may well give us.
    os.environ.update(GIT_CONFIG_COUNT="1", GIT_CONFIG_KEY_0="safe.directory", GIT_CONFIG_VALUE_0=str(ROOT))
    # Ansible finds a collection only under its full name; this checkout may be called anything.
    _CHECKOUT.parent.mkdir(parents=True, exist_ok=True)
    if not _CHECKOUT.is_symlink():
        _CHECKOUT.symlink_to("../../../..")
    BUILD.mkdir(exist_ok=True)


def _interpreters() -> list[str]:
    """pyenv's own folders, newest first: the scripts it puts on PATH only work for the versions it was told to use."""
    pyenv = Path(os.environ.get("PYENV_ROOT", _HOME / ".pyenv"))
    folders = sorted(pyenv.glob("versions/3.*/bin"), key=lambda path: int(path.parent.name.split(".")[1]))
    return [str(folder) for folder in reversed(folders)]


def _home_for(purpose: str) -> Path:
    """Make a home in the checkout, with the user's own settings and cache of pip in it."""
    home = ROOT / ".ansible" / "homes" / purpose
    for name in (".config/pip", ".cache/pip"):
        theirs, ours = _HOME / name, home / name
        ours.parent.mkdir(parents=True, exist_ok=True)
        if theirs.is_dir() and not os.path.lexists(ours):
            ours.symlink_to(theirs)
    return home


# --- Pythons and ansible-cores ----------------------------------------------------------------------------------


def pythons() -> list[int]:
    """The Pythons that are here (3.x), the oldest first; `prepare` has put pyenv's on the PATH."""
    return [minor for minor in range(8, 15) if shutil.which(f"python3.{minor}")]


def python_of(core: str) -> int:
    """The newest Python here that this ansible-core's controller runs on, else the oldest it would need."""
    able = CORES[core][0]
    return max((minor for minor in pythons() if minor in able), default=able[0])


def runnable() -> list[str]:
    """The ansible-cores that are out and whose controller runs on a Python that is here."""
    here = pythons()
    return [core for core in CORES if python_of(core) in here and core not in CANDIDATES]


def ansible_core(core: str) -> str:
    """What pip is asked for: the newest release of this ansible-core, or a candidate until there is one."""
    return f"ansible-core~={CANDIDATES.get(core, f'{core}.0')}"


# --- ansible-test -----------------------------------------------------------------------------------------------

# ansible-test puts pip into the environments it makes with a script from Ansible's own server. Where only PyPI can be
# reached that fails, so the script is given beforehand, in the place it is looked for: this one installs the very pip
# version that ansible-test asks for, from a wheel that came from PyPI.
_GET_PIP = """\
import os, sys
wheel = os.path.join(os.path.dirname(os.path.abspath(os.environ["GET_PIP"])), "pip-{version}-py3-none-any.whl")
sys.path.insert(0, wheel)
from pip._internal.cli.main import main
sys.exit(main(["install", wheel] + [word for word in sys.argv[1:] if word not in ("--no-setuptools", "--no-wheel")]))
"""


def folder_of(session: nox.Session) -> str:
    """The session's name without the brackets, as nox itself names its environments."""
    return Path(session.virtualenv.location).name


def ansible_test_home(session: nox.Session, core: str) -> Path:
    """Make a home for one run of ansible-test, with _GET_PIP where it is looked for."""
    pip = CORES[core][1]
    home = _home_for(folder_of(session))
    cache = home / ".ansible" / "test" / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    if not (cache / f"pip-{pip}-py3-none-any.whl").exists():
        session.run("pip", "download", "--quiet", "--no-deps", "--dest", str(cache), f"pip=={pip}", silent=True)
    (cache / f"get_pip_{pip.replace('.', '_')}.py").write_text(_GET_PIP.format(version=pip))
    return home


def copy_of_checkout(session: nox.Session) -> Path:
    """Copy what git tracks or would track to where ansible-test accepts a collection: it refuses a symlink."""
    tree = ROOT / ".ansible" / "trees" / folder_of(session) / "ansible_collections" / "virtops" / "qmp"
    shutil.rmtree(tree, ignore_errors=True)
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if os.path.lexists(ROOT / name):  # git lists a file that was deleted but not yet committed
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name, follow_symlinks=False)
    # ansible-test asks git for the files: without a repository of its own the copy is an ignored folder of ours.
    for words in (["init", "--quiet"], ["add", "--all"]):
        subprocess.run(["git", *words], cwd=tree, check=True)
    return tree
