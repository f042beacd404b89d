"""Every command in the docs is run, shrunk to a size that a test can bear; every make target exists."""

import ast
import json
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from docs.reference import PAGES as REFERENCE
from pocketfed.core.backbones import BACKBONES
from pocketfed.core.backbones.scales_file import read_scales, shipped_scales
from pocketfed.core.errors import BundleError
from pocketfed.core.learning_task import initial_weights
from pocketfed.mobile_client.delivery import Depot
from pocketfed.server.certificates import make_certificates
from pocketfed.server.checkpoint import Checkpoint, save_checkpoint
from pocketfed.simulator.bench.run import Figures
from pocketfed.simulator.cli import main
from pocketfed.simulator.config import Config, DeploymentConfig, PrivacyConfig
from pocketfed.simulator.config_file import build_config
from pocketfed.simulator.program import recorded, task_of
from pocketfed.simulator.run_folder import RunFolder, begin
from tests.conftest import REPOSITORY

PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
]


def commands() -> list[str]:
    """The commands of all pages, each once."""
    return sorted({command for page in PAGES for command in _commands_of(page)})


def _commands_of(page: Path) -> list[str]:
    return _commands_in(page.read_text())


def _commands_in(text: str) -> list[str]:
    """Lines of the fenced `sh` blocks, with continuations joined and comments dropped."""
    found = []
    for block in re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL):
        lines = block.replace("\\\n", " ").splitlines()
        found += [re.sub(r"\s+#.*", "", line).strip() for line in lines if line.strip()]
    return found


def calls(name: str) -> list[str]:
    return [command for command in commands() if command.startswith(f"pocketfed {name}")]


@pytest.fixture(scope="module")
def captures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small folders of photos and sounds in two classes each."""
    folder = tmp_path_factory.mktemp("captures")
    rng = np.random.default_rng(0)
    for i in range(60):
        for kind in ("photos", "sounds"):
            (folder / kind / f"class{i % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(
            folder / "photos" / f"class{i % 2}" / f"{i}.png"
        )
        pcm = 0.1 * rng.standard_normal(16_000)
        soundfile.write(folder / "sounds" / f"class{i % 2}" / f"{i}.wav", pcm, 16_000)
    return folder


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["pocketfed", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(command, marks=[pytest.mark.long] if "ray" in command.split() else [])
        for command in calls("simulate")
    ],
)
def test_simulations(command: str, captures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Own captures in place of the reader's, one round, two phones, the eager twin."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(REPOSITORY / "configs", tmp_path / "configs")
    words = shlex.split(command)[1:]
    small = ["--rounds", "1", "--phones", "2", "--runtime", "torch", "--alpha", "1"]
    if "--resume" in words:
        begun = ["simulate", "--photos", str(captures / "photos"), *small, "--out", words[-1]]
        assert run(begun, monkeypatch) == 0
        assert run(words, monkeypatch) == 0
        return
    for plugin, name in (("mine.py", "simulate.md"), ("slow.py", "aggregation.md")):
        if plugin in words:
            page = (REPOSITORY / "docs" / name).read_text()
            (tmp_path / plugin).write_text(re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)[0])
    for flag in ("photos", "sounds"):
        if f"--{flag}" in words:
            words[words.index(f"--{flag}") + 1] = str(captures / flag)
    if "--photos" not in words:
        words += ["--photos", str(captures / "photos")]
    if "ray" in words:
        pytest.importorskip("ray", reason="the extra `ray` is not installed")
    if "--ray-address" in words:  # there is no cluster here, and the command says so
        words[words.index("--ray-address") + 1] = "127.0.0.1:9"
        assert run([*words[:-2], "--out", str(tmp_path / "run")], monkeypatch) == 2
        return
    assert run([*words, *small, "--out", str(tmp_path / "run")], monkeypatch) == 0
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize("command", calls("scales"))
def test_searches(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything but the search, which tests/simulator/test_scales_command.py has."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(REPOSITORY / "configs", tmp_path / "configs")
    words = shlex.split(command)[1:]
    family = words[words.index("--backbone") + 1]
    searched: list[str] = []
    monkeypatch.setattr(
        "pocketfed.simulator.simulate.simulate",
        lambda config, *others: searched.append(config.learning.backbone),
    )
    found = (shipped_scales(family), {"backbone": family})
    monkeypatch.setattr("pocketfed.simulator.scales.found_scales", lambda path: found)
    assert run(words, monkeypatch) == 0
    assert searched == [f"{family}-hs"]
    assert len(read_scales(Path(words[words.index("-o") + 1]))) == len(found[0])


@pytest.mark.parametrize("command", calls("backbones"))
def test_lists_of_backbones(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything but the stopwatch, which tests/simulator/bench holds; of two networks where the page has all."""
    monkeypatch.chdir(tmp_path)
    kept = {name: BACKBONES[name] for name in ("compact", "resnet")}
    monkeypatch.setattr("pocketfed.core.backbones.BACKBONES", kept)
    monkeypatch.setattr("pocketfed.core.backbones.PHONES", tuple(kept))
    row = {"executorch": {"median_ms": 1.0}, "ratio_to_eager": 1.0, "program_bytes": 1, "arena_bytes": 1}
    every = {key: row for key in ("step", "embedding", "float32", "int8", "coreml")}
    monkeypatch.setattr("pocketfed.simulator.bench.survey.survey", lambda *arguments: every)
    assert run(shlex.split(command)[1:], monkeypatch) == 0


@pytest.mark.parametrize("command", calls("bench"))
def test_benches(
    command: str,
    captures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Everything but the stopwatch, which tests/simulator/bench holds. Engines that are not installed are said."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(REPOSITORY / "benchmarks", tmp_path / "benchmarks")
    words = shlex.split(command)[1:]
    if "--bundle" in words:
        small = ["--rounds", "1", "--phones", "2", "--runtime", "torch", "--alpha", "1"]
        out = words[words.index("--bundle") + 1]
        assert run(["simulate", "--photos", str(captures / "photos"), *small, "--out", out], monkeypatch) == 0
    times = {"median_ms": 1.0, "p95_ms": 1.0, "resident_bytes": None}
    row = {
        "label": "step", "threads": 1, "batch": 4, "executorch": times, "eager": times, "ratio_to_eager": 1.0,
        "load_ms": 1.0, "program_bytes": 1, "arena_bytes": 1,
    }  # fmt: skip
    monkeypatch.setattr("pocketfed.simulator.bench.run.benchmark", lambda *arguments: Figures([row], []))
    code = run(words, monkeypatch)
    if code == 2 and "onnxruntime" in command:
        assert "pip install" in capsys.readouterr().err
        return
    assert code == 0
    for flag in {"--json", "--plot"} & set(words):
        assert Path(words[words.index(flag) + 1]).stat().st_size > 0


def test_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate is made where there is none, and renewed where there is one."""
    monkeypatch.chdir(tmp_path)
    for command in sorted(calls("certs"), key=lambda command: "--renew" in command):
        if "--renew" not in command:
            shutil.rmtree(tmp_path / "certs", ignore_errors=True)
        assert run(shlex.split(command)[1:], monkeypatch) == 0


@pytest.mark.parametrize("command", calls("phone"))
def test_phones(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command understands it and gets as far as the bundle, which is absent; tests/simulator has the rest."""
    monkeypatch.chdir(tmp_path)
    assert run(["certs", "certs"], monkeypatch) == 0
    assert run(["keys", "release"], monkeypatch) == 0
    shutil.copy("certs/ca.pem", "ca.pem")

    def none(depot: Depot, etag: str = "") -> None:
        raise BundleError(f"what {depot.server} offers is no bundle")

    words = shlex.split(command)
    Path(words[words.index("--captures") + 1]).mkdir()
    monkeypatch.setattr(Depot, "offer", none)
    before = signal.getsignal(signal.SIGTERM)
    assert run(words[1:], monkeypatch) == 2
    signal.signal(signal.SIGTERM, before)
    assert "is no bundle" in capsys.readouterr().err


@pytest.mark.parametrize("command", calls("serve"))
def test_servers(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command understands it and gets as far as the bundle, which is absent; `test_a_deployment` has the rest."""
    monkeypatch.chdir(tmp_path)
    make_certificates(tmp_path / "certs", ["127.0.0.1"])
    assert run(shlex.split(command)[1:], monkeypatch) == 2
    assert re.search("is no bundle|cannot be read", capsys.readouterr().err)


@pytest.mark.long
def test_a_deployment(captures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The four commands of docs/serve.md, as typed but for a small network, one round and a free port."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "demo.toml").write_text(
        '[captures]\nside = 16\nphotos = "../album"\n[learning]\nbatch = 4\n'
    )
    shutil.copytree(captures / "photos", tmp_path / "album")
    text = (REPOSITORY / "docs" / "serve.md").read_text()
    _play(_commands_in(_section(text, "Four commands")), monkeypatch)
    assert run(["enrol", "--state", "server"], monkeypatch) == 0


@pytest.mark.long
def test_the_readme_from_own_captures_to_a_real_phone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a reader copies it, from the simulation to the phone, but for one round and a free port; one phone is enough."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for i in range(260):
        for folder in ("album", "recordings"):
            (tmp_path / folder / f"class{i % 2}").mkdir(parents=True, exist_ok=True)
        photo = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(photo).save(tmp_path / "album" / f"class{i % 2}" / f"{i}.png")
        pcm = 0.1 * rng.standard_normal(16_000)
        soundfile.write(tmp_path / "recordings" / f"class{i % 2}" / f"{i}.wav", pcm, 16_000)
    text = (REPOSITORY / "README.md").read_text()
    first = [c for c in _commands_in(_section(text, "Your own captures")) if c.startswith("pocketfed")]
    assert [command.split()[1] for command in first] == ["simulate"]
    assert run([*shlex.split(first[0])[1:], "--rounds", "1"], monkeypatch) == 0
    _play(_commands_in(_section(text, "Real phones")), monkeypatch)


def _section(text: str, title: str) -> str:
    """What a page says under a heading."""
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def _play(page: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Four commands of a page in their order: certificate, server, key, phone. The server takes a free port, and both
    end after a round."""
    words = [shlex.split(command)[1:] for command in page]
    assert [command[0] for command in words] == ["certs", "serve", "enrol", "phone"]
    certs, serve, enrol, phone = words
    assert run(certs, monkeypatch) == 0
    program = str(Path(sys.executable).with_name("pocketfed"))
    server = [program, *serve, "--port", "0", "--rounds", "1"]
    started = [subprocess.Popen(server, stderr=subprocess.PIPE, text=True)]
    try:
        address = next(line for line in _lines(started[0]) if line.startswith("Serving phones at "))
        assert run(enrol, monkeypatch) == 0
        there = address.removeprefix("Serving phones at ").strip()
        phone[phone.index("--server") + 1] = there
        started.append(
            subprocess.Popen([program, *phone, "--rounds", "1"], stderr=subprocess.DEVNULL, text=True)
        )
        said = "".join(_lines(started[0]))
        assert started[0].wait(120) == 0, said
        assert started[1].wait(60) == 0
    finally:
        for process in started:
            process.kill()
            process.communicate()  # waits, and closes the pipe
    assert "All 1 rounds are finished" in said
    state = Path(serve[serve.index("--state") + 1])
    assert (state / "checkpoints" / "round-00001.safetensors").exists()


def _lines(process: subprocess.Popen[str]) -> Iterator[str]:
    """What a process says, until it ends; a minute or two at most, since its own waits are bounded."""
    assert process.stderr is not None
    return iter(process.stderr.readline, "")


def test_enrolments_are_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["enrol", "--state", "server", "--new", "phones/first"], monkeypatch) == 0
    for command in calls("enrol"):
        words = shlex.split(command)[1:]
        assert run(words, monkeypatch) == (2 if "KEY.pub" in words else 0)


def test_bundles(captures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's commands in order, with a small network and without the programs that take long; `test_servers` and
    `test_phones` have the delivery."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "demo.toml").write_text(
        f'[captures]\nside = 16\nphotos = "{captures}/photos"\n[learning]\nbatch = 4\n'
    )
    page = [shlex.split(command)[1:] for command in _commands_of(REPOSITORY / "docs" / "bundles.md")]
    delivery = {"serve", "phone"}
    assert {words[0] for words in page} == {"keys", "bundle", "inspect", "verify"} | delivery
    for words in (words for words in page if words[0] not in delivery):
        less = ["--no-int8", "--no-coreml"] if words[0] == "bundle" else []
        assert run([*words, *less], monkeypatch) == 0, words
    _check_the_page_for_apps(tmp_path / "bundle")


def _check_the_page_for_apps(bundle: Path) -> None:
    """Its Python, in a folder with a bundle, and its table against the manifest."""
    page = (REPOSITORY / "docs" / "apps.md").read_text()
    script = bundle.parent / "app.py"
    script.write_text(re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ExecuTorch calls its own Python experimental
        found = runpy.run_path(str(script))
    loss, new_weights, features = (found[name] for name in ("loss", "new_weights", "features"))
    assert 0 < float(loss) < 10
    assert new_weights.shape == found["weights"].shape
    assert not np.array_equal(new_weights.numpy(), found["weights"].numpy())
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert features.shape == (1, manifest["features"])
    step = manifest["programs"]["train.pte"]["methods"]["step_photo"]
    rows = re.findall(r"^\| `([\w ]+)` \|", page, flags=re.MULTILINE)
    assert rows == [entry["name"] for entry in step["inputs"]]


def test_classifiers(captures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's commands in order, on a run of which only the untrained round is there."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(captures / "photos", tmp_path / "album")
    values = {"captures": {"side": 16, "photos": str(tmp_path / "album")}, "learning": {"batch": 4}}
    config = build_config(values)
    task = task_of(config, recorded(config))
    folder = RunFolder(tmp_path / "runs" / "demo")
    begin(folder, config)
    weights = initial_weights(task, 0)
    save_checkpoint(folder.checkpoints, Checkpoint(0, 0, weights, task.layout, {"round": 0}))
    page = [shlex.split(command)[1:] for command in _commands_of(REPOSITORY / "docs" / "classifiers.md")]
    assert {words[0] for words in page} == {"probe", "bundle", "verify"}
    for words in page:
        less = ["--no-int8", "--no-coreml"] if words[0] == "bundle" else []
        assert run([*words, *less], monkeypatch) == 0, words


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE))
    used = {word for command in commands() if command.startswith("make ") for word in command.split()[1:]}
    assert used
    assert used <= targets


def test_every_other_command_names_a_file_or_package_that_exists() -> None:
    for command in commands():
        if command.startswith(("pocketfed ", "make ")):
            continue
        words = shlex.split(re.sub(r"^(\w+=\S+ )+", "", command))  # without settings of the environment
        known = {".venv/bin/uv", "pip", "git", ".", "python", ".venv/bin/python"}
        known |= {
            "flower-superlink",
            "flower-supernode",
            "flwr",
        }  # tests/simulator/test_flower_app.py runs these
        assert words[0] in known, command
        if words[0].endswith("python"):
            assert (REPOSITORY / words[1]).exists(), command


def test_the_defaults_in_the_docs_are_the_defaults() -> None:
    for page, title in (("simulate.md", "Configuration"), ("serve.md", "What it serves")):
        block = re.search(
            r"```toml\n(.*?)```", _section((REPOSITORY / "docs" / page).read_text(), title), flags=re.DOTALL
        )
        assert block is not None
        values = tomllib.loads(block[1])
        assert build_config(values) == Config()
        if deployment := values.get("deployment"):
            assert deployment.keys() == DeploymentConfig.model_fields.keys()


@pytest.mark.parametrize("name", REFERENCE)
def test_pages_that_are_made_from_the_code_are_up_to_date(name: str) -> None:
    written = (REPOSITORY / "docs" / name).read_text()
    assert written == REFERENCE[name](), "make it again: python docs/reference.py"


def test_privacy_in_the_docs_is_the_shipped_one_and_has_those_defaults() -> None:
    blocks = re.findall(
        r"```toml\n(.*?)```", (REPOSITORY / "docs" / "privacy.md").read_text(), flags=re.DOTALL
    )
    shipped = tomllib.loads((REPOSITORY / "configs" / "private.toml").read_text())["privacy"]
    given, defaults = tomllib.loads(blocks[0])["privacy"], tomllib.loads(blocks[1])
    assert given == shipped
    assert build_config({"privacy": given}) == build_config({"privacy": given | defaults})
    assert given.keys() | defaults.keys() == PrivacyConfig.model_fields.keys()


def test_local_links_lead_somewhere() -> None:
    for page in PAGES:
        text = _prose(page)
        defined = dict(re.findall(r"^\[(`[^\]]+`)\]: (\S+)$", text, flags=re.MULTILINE))
        assert set(re.findall(r"\[(`[^\]]+`)\](?!\()", text)) <= defined.keys(), page.name
        found = re.findall(r"\]\(([^)]+)\)|src=\"([^\"]+)\"", text)
        for target in [first or second for first, second in found] + [*defined.values()]:
            link, _, anchor = target.partition("#")
            if "://" in link:
                continue
            there = page.parent / link if link else page
            assert there.exists(), f"{page.name}: {link}"
            if anchor:
                assert anchor in _anchors(there), f"{page.name}: {link}#{anchor}"


def _prose(page: Path) -> str:
    """Without what is in fences."""
    return re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def _anchors(page: Path) -> set[str]:
    """Those that GitHub makes of the headings: lower case, spaces as hyphens, no other signs."""
    headings = re.findall(r"^#+ (.+)$", _prose(page), flags=re.MULTILINE)
    plain = [re.sub(r"\]\([^)]*\)", "", heading).lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


def test_source_files_that_pages_name_exist() -> None:
    """In full, or without the part's own package: `server/rounds.py` for `server/pocketfed/server/rounds.py`."""
    for page in (page for page in PAGES if page.name != "secure-aggregation.md"):  # names files of a design
        for part, rest in re.findall(
            r"`(core|server|mobile_client|export|simulator|tests|benchmarks|configs)/([\w/\-]+\.(?:py|json|toml|proto))`",
            page.read_text(),
        ):
            short = REPOSITORY / part / "pocketfed" / part / rest
            assert (REPOSITORY / part / rest).exists() or short.exists(), f"{page.name}: {part}/{rest}"


def test_messages_in_troubleshooting_are_those_of_the_code() -> None:
    """Between what stands for something else: `…`, and fields of the log such as `round=3`."""
    constants = {
        node.value
        for part in ("core", "server", "mobile_client", "export", "simulator")
        for path in (REPOSITORY / part / "pocketfed").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    text = (REPOSITORY / "docs" / "troubleshooting.md").read_text()
    for block in re.findall(r"```text\n(.*?)```", text, flags=re.DOTALL):
        for line in block.splitlines():
            fragments = re.split("…", re.sub(r" \w+=(\"[^\"]*\"|\S+)", "…", line))
            for fragment in filter(None, map(str.strip, fragments)):
                assert any(fragment in constant for constant in constants), f"{line}: {fragment}"
