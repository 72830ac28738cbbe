"""The house itself: names, generated documents, what a script may not do."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted((ROOT / "workflow/scripts").glob("*.py"))
RULES = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "workflow/rules").glob("*.smk")))


def test_the_generated_documents_say_what_the_models_say() -> None:
    command = [sys.executable, str(ROOT / "workflow/scripts/snaketune/configdoc.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"run `make docs`:\n{done.stdout}"


def test_no_script_is_named_like_an_installed_module() -> None:
    names = [path.stem for path in SCRIPTS]
    program = (
        "import importlib.util, sys\n"
        "print([name for name in sys.argv[1:] if importlib.util.find_spec(name) is not None])"
    )
    done = subprocess.run([sys.executable, "-c", program, *names], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_has_a_rule_and_can_be_imported_without_snakemake(script: Path) -> None:
    source = script.read_text(encoding="utf-8")
    assert f'"../scripts/{script.name}"' in RULES
    assert "from __future__" not in source, "Snakemake puts a preamble before a script"
    assert ast.get_docstring(ast.parse(source)), "what comes in, what goes out, and why"


def test_a_package_says_what_it_is_and_holds_no_code_of_its_own() -> None:
    packages = sorted((ROOT / "workflow/scripts/snaketune").rglob("__init__.py"))
    assert len(packages) > 5
    for path in packages:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), path
        assert len(tree.body) == 1, f"{path}: a rerun would not notice it"


def test_every_rule_has_a_log_and_lists_its_code() -> None:
    for rule in re.split(r"^rule ", RULES, flags=re.MULTILINE)[1:]:
        name = rule.partition(":")[0]
        assert "    log:" in rule, name
        assert re.search(r"code=(ancient\()?code\(", rule), name


def test_the_lock_pins_every_dependency_of_the_project() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8").lower().replace("_", "-")
    names = [re.match(r"[A-Za-z0-9_.-]+", requirement)[0].lower().replace("_", "-") for requirement in wanted]
    assert [name for name in names if not re.search(rf"^{re.escape(name)}==", lock, re.MULTILINE)] == []
