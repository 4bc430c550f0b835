"""Fuzz: nine targets (`targets.py`), whatever octets they are given, by two engines that know the same targets.

hypothesis makes examples of the words that a target's input is made of; atheris, where it can be had, follows the
branches that the code took (nightly only: some seconds a target are no use). Two targets are tried at a time.

Negative controls: an encoder that stuffs no dot, and a reader whose work is the square of its input.

`--only TARGET/HEX` gives one input to one target, as it was printed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from torture.evidence import Violation
from torture.fuzzing import Report, crashed, explore
from torture.report import Part, Size
from torture.targets import TARGETS, Target

AT_A_TIME = 2
CONTROL_EXAMPLES = 300
INSTALL_S = 300
ENDING_S = 600  # beyond its seconds, an engine on a slow machine
PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def run(size: Size, seed: int, directory: Path, only: str) -> Part:
    part = Part(name="fuzz", seed=seed)
    if only:
        name, _, octets = only.partition("/")
        found = _once(TARGETS[name], bytes.fromhex(octets))
        part.case(only, found, again=f"python -m torture fuzz --only {only}")
        return part
    for name, control in controls().items():
        part.control(name, caught=explore(control, CONTROL_EXAMPLES, seed).input is not None)
    amounts = {"hypothesis": size.of(sample=400, nightly=10_000)}
    environment = dict(os.environ)
    if size.name == "sample":
        part.skip("atheris", "nightly only")
    elif isinstance(there := _atheris(directory), Path):
        environment["PYTHONPATH"] = os.pathsep.join([environment.get("PYTHONPATH", ""), str(there)])
        amounts["atheris"] = 60 * size.times
    else:
        part.skip("atheris", there)
    jobs = [(engine, name, amount) for engine, amount in amounts.items() for name in TARGETS]

    def job(what: tuple[str, str, int]) -> Report:
        engine, name, amount = what
        place = directory / f"{engine}-{name}"
        place.mkdir()
        return _tried(engine, name, amount, seed, place, environment)

    totals: dict[str, list[str]] = {}
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        for (engine, name, _), report in zip(jobs, pool.map(job, jobs), strict=True):
            _count(part, f"{name} by {engine}", name, report)
            totals.setdefault(engine, []).append(f"{name} {report.examples}")
    for engine, each in totals.items():
        part.note(f"{engine}: {', '.join(each)}")
    return part


def _count(part: Part, case: str, name: str, report: Report) -> None:
    again = f"python -m torture fuzz --only {name}/{report.input}"
    found = [Violation(invariant="fuzz", text=report.what)] if report.what else []
    part.case(case, found, again=again)
    part.cases += max(report.examples - 1, 0)  # each example is one


def _once(target: Target, data: bytes) -> list[Violation]:
    try:
        target.check(data)
        target.weigh(data)
    except Exception as error:
        return [Violation(invariant="fuzz", text=f"{type(error).__name__}: {error}")]
    return []


def controls() -> dict[str, Target]:
    """What must be found: name -> a target that is broken."""
    wire, argv = TARGETS["wire"], TARGETS["argv"]

    def square(data: bytes) -> int:
        lines = 0
        for _ in range(len(data) ** 2 // 100):
            lines += 1
        return lines

    return {
        "no dot stuffed": replace(wire, use=lambda data: (data + b"\r\n.\r\n", [])),
        "work that is a square": replace(argv, use=square, judge=lambda data, found: None),
    }


def _tried(engine: str, name: str, amount: int, seed: int, place: Path, environment: dict[str, str]) -> Report:
    command = [sys.executable, "-P", "-m", "torture.fuzzing", engine, name, str(amount), str(seed), str(place)]
    patience = ENDING_S + (amount if engine == "atheris" else amount / 10)
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=patience, check=False)
    except subprocess.TimeoutExpired:
        return Report(what=f"not at its end after {patience:.0f} s")
    if engine == "atheris":
        return crashed(done.returncode, place, done.stderr)
    if done.returncode:
        return Report(what=f"exit {done.returncode}: {done.stderr[-400:]}")
    return Report(**json.loads(done.stdout.splitlines()[-1]))


def _atheris(directory: Path) -> Path | str:
    """Where it can be imported from, or why it cannot be had."""
    if importlib.util.find_spec("atheris") is not None:
        return directory
    [requirement] = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]["fuzz"]
    place = directory / "atheris"
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "-qq", "--no-deps"]
    command += ["--only-binary", ":all:", "--target", str(place), requirement]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    except subprocess.TimeoutExpired:
        return f"pip was not done with {requirement} after {INSTALL_S} s"
    if done.returncode:
        return f"pip could not install {requirement}: {done.stderr.strip().splitlines()[-1]}"
    return place
