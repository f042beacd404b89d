"""The namespace stays a namespace, and what is imported is declared."""

import ast
import re
import sys
import tomllib

from tests.conftest import REPOSITORY

PARTS = ("core", "server", "mobile_client", "export", "simulator")


def test_no_part_claims_the_namespace() -> None:
    for part in PARTS:
        assert not (REPOSITORY / part / "pocketfed" / "__init__.py").exists()
        assert (REPOSITORY / part / "pocketfed" / part / "py.typed").exists()


def test_every_import_is_a_declared_dependency() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    names = [re.split(r"[<>=\[ ]", line)[0] for line in project["dependencies"]]
    modules = {
        "scikit-learn": "sklearn",
        "pillow": "PIL",
        "tomli-w": "tomli_w",
        "protobuf": "google",
        "prometheus-client": "prometheus_client",
    }
    # Ray comes with the extra `ray`, through Flower; the accountant with `privacy`; the others with `peers`, or as
    # docs/bench.md says.
    optional = {"ray", "dp_accounting", "onnx", "onnxruntime", "MNN", "tensorflow"}
    declared = {modules.get(name, name) for name in names} | {"pocketfed"} | optional
    declared |= set(sys.stdlib_module_names)
    for part in PARTS:
        for path in (REPOSITORY / part / "pocketfed").rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                found = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and node.module:
                    found = [node.module]
                for name in found:
                    assert name.partition(".")[0] in declared, f"{path.name} imports {name}"


def test_every_dependency_is_explained() -> None:
    said = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    extras = [line for lines in said["project"]["optional-dependencies"].values() for line in lines]
    wanted = [*said["project"]["dependencies"], *extras, *said["dependency-groups"]["dev"]]
    rows = re.findall(r"^\| ([\w, \-]+) \|", (REPOSITORY / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE)
    explained = {name for row in rows for name in row.split(", ")}
    assert {re.split(r"[<>=\[ ]", line)[0] for line in wanted} <= explained


def test_the_lock_has_names_and_versions_only_and_fits_the_ranges() -> None:
    lock = (REPOSITORY / "requirements.lock").read_text()
    assert "://" not in lock
    lines = lock.splitlines()
    assert all(re.match(r"^[A-Za-z0-9_.\-]+==\S+( ;.*)?$", line) for line in lines)
    for pinned in ("torch==2.13.0", "executorch==1.4.1", "flwr==1.41.0", "coremltools==9.0"):
        assert any(line.split(" ;")[0] == pinned for line in lines), pinned
