"""What every script does around its stage."""

import subprocess
import sys
from pathlib import Path

from snaketune.kernels import forget_stale

SCRIPTS = Path(__file__).parent.parent / "workflow/scripts"
JOB = f"""
import sys
sys.path.insert(0, {str(SCRIPTS)!r})
from types import SimpleNamespace
from snaketune.job import run

def stage(job):
    import pyarrow as pa
    made = pa.table({{"text": ["a"], "number": [1]}}).to_pylist()
    return f"{{made}} pandas: {{'pandas' in sys.modules}}"

job = SimpleNamespace(log=["job.log"], wildcards={{"run": "r"}}, rule="rule")
run(stage, job, light=len(sys.argv) == 1)
print("after", file=sys.stderr)
"""


def test_a_light_stage_waits_for_no_pandas_and_for_no_clean_up(tmp_path: Path) -> None:
    for arguments, loaded in (([], False), (["with"], True)):
        command = [sys.executable, "-c", JOB, *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        told = f"[{{'text': 'a', 'number': 1}}] pandas: {loaded}"
        assert done.stderr.startswith(f"r  rule         {told}")
        log = (tmp_path / "job.log").read_text(encoding="utf-8").splitlines()
        assert log[0] == told
        assert log[1].startswith("processor time ")
        assert (log[-1] == "after") is loaded


def test_a_library_can_have_pandas_where_arrow_does_without(tmp_path: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(SCRIPTS)!r}); from snaketune import job; job._arrow_without_pandas()\n"
    code += "import pyarrow as pa; pa.array(['a']); assert 'pandas' not in sys.modules; import pandas"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_compiled_kernels_of_other_code_are_forgotten(tmp_path: Path) -> None:
    cache = tmp_path / "__pycache__"
    cache.mkdir()
    (tmp_path / "one.py").write_text("a = 1", encoding="utf-8")
    inner = tmp_path / "package/__pycache__"
    inner.mkdir(parents=True)
    kept = [cache / "one.cpython-311.pyc", tmp_path / "one.py"]
    kernels = [cache / "two.f-1.py311.nbi", inner / "two.f-1.py311.1.nbc"]

    def compile_all() -> None:
        for path in (kept[0], *kernels):
            path.write_bytes(b"compiled")

    compile_all()
    assert forget_stale(tmp_path)
    assert not any(path.exists() for path in kernels)
    compile_all()
    assert not forget_stale(tmp_path)
    assert all(path.exists() for path in (*kept, *kernels))
    (tmp_path / "one.py").write_text("a = 2", encoding="utf-8")
    assert forget_stale(tmp_path)
    assert all(path.exists() for path in kept)
    assert not any(path.exists() for path in kernels)
