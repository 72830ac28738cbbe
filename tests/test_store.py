"""The store: one job a fingerprint at a time, and removal that no running job notices and no kill leaves half done."""

import errno
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from snaketune import store
from snaketune.job import StageError
from snaketune.store import claim, clear, fingerprint, listing, prune, publish, trainings

SCRIPTS = Path(__file__).parent.parent / "workflow/scripts"
PROGRAM = SCRIPTS / "snaketune/store.py"
HEAD = f"import os, sys, time; sys.path.insert(0, {str(SCRIPTS)!r}); from pathlib import Path\n"
# A job that has the training `one`, says so, and trains until `go` is there; then it is done.
JOB = f"""{HEAD}
from snaketune.store import claim
with claim(Path("store/one"), sys.argv[1]):
    again = Path("store/one/done").exists()
    print("from the store" if again else "trains", flush=True)
    while not again and not Path("go").exists():
        time.sleep(0.01)
    Path("store/one/done").mkdir(exist_ok=True)
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts programs in the test's folder, and ends those that are left."""
    running: list[subprocess.Popen[str]] = []

    def begin(code: str, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        running.append(subprocess.Popen(command, cwd=tmp_path, text=True, **pipes))
        return running[-1]

    yield begin
    for process in running:
        process.kill()
        process.communicate()


def training(stores: Path, name: str, megabytes: float, age: float, *, done: bool = True, step: int = 120) -> Path:
    """A training that was last used `age` seconds ago."""
    folder = stores / name
    inside = folder / ("done/model" if done else f"checkpoints/step-{step:08d}")
    inside.mkdir(parents=True)
    (inside / "model.safetensors").write_bytes(bytes(int(megabytes * 1e6)))
    if not done:
        (inside / "state.json").write_text(json.dumps({"state": {"planned_steps": 1500}}))
    with claim(folder, f"run-{name}"):
        pass
    for path in (folder / "last_used", folder / "checkpoints"):
        if path.exists():
            os.utime(path, (time.time() - age,) * 2)
    return folder


def names(stores: Path) -> set[str]:
    return {path.name for path in stores.iterdir()}


def test_the_fingerprint_covers_settings_contents_and_libraries_but_no_folder_and_no_order(tmp_path, monkeypatch):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for name in ("x.py", "y.py"):
            (tmp_path / folder / name).write_text(name)
    a = [str(tmp_path / "a" / name) for name in ("x.py", "y.py")]
    b = [str(tmp_path / "b" / name) for name in ("y.py", "x.py")]
    first = fingerprint({"rate": 1e-3, "seed": 1}, a)
    assert len(first) == 32
    assert int(first, 16)
    assert fingerprint({"seed": 1, "rate": 1e-3}, b) == first
    assert fingerprint({"rate": 1e-3, "seed": 2}, a) != first
    assert fingerprint({"rate": 1e-3, "seed": 1}, a[:1]) != first
    twice = [a[0], b[1]]  # one name, one content, in two folders: both count, in either order
    assert fingerprint({}, twice) == fingerprint({}, twice[::-1]) != fingerprint({}, twice[:1])
    (tmp_path / "z.py").write_text("x.py")
    assert fingerprint({}, [str(tmp_path / "z.py")]) != fingerprint({}, a[:1]), "one content under two names"
    (tmp_path / "b/x.py").write_text("other")
    assert fingerprint({}, twice) == fingerprint({}, twice[::-1])
    assert fingerprint({"rate": 1e-3, "seed": 1}, b) != first
    assert store._version("no-such-package") == "none"
    assert store._version("torch")[0].isdigit()
    for library in ("torch", "transformers", "peft"):
        with monkeypatch.context() as patch:
            patch.setattr(store, "_version", lambda name, new=library: "99" if name == new else store_version(name))
            assert fingerprint({"rate": 1e-3, "seed": 1}, a) != first


store_version = store._version


def test_two_jobs_of_one_fingerprint_train_once_and_the_second_says_that_it_waits(tmp_path, start):
    first = start(JOB, "run-a")
    assert first.stdout.readline() == "trains\n"
    second = start(JOB, "run-b")
    assert second.stderr.readline() == "  waits for another job that trains the same (store/one)\n"
    assert "begun, a job has it" in listing(tmp_path / "store")
    (tmp_path / "go").touch()
    assert second.communicate(timeout=20) == ("from the store\n", "")
    assert first.communicate(timeout=20) == ("", "")
    assert (tmp_path / "store/one/last_used").read_text() == "run-a\nrun-b\n"


def test_a_killed_job_leaves_no_lock_even_where_its_forked_worker_lives_on(tmp_path, start):
    forking = JOB.replace("    again", "    worker = os.fork() or (time.sleep(600), os._exit(0))\n    again", 1)
    forking = forking.replace('"trains"', 'f"trains {worker}"')
    killed = start(forking, "run-a")
    worker = int(killed.stdout.readline().split()[1])
    try:
        killed.kill()
        killed.wait()
        (tmp_path / "go").touch()
        said = start(JOB, "run-b").communicate(timeout=20)
        os.kill(worker, 0)  # it is still there
        assert said == ("trains\n", "")
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_job_that_waited_for_a_folder_that_was_removed_trains_in_a_new_one(tmp_path, start):
    first = start(JOB, "run-a")
    first.stdout.readline()
    second = start(JOB, "run-b")
    second.stderr.readline()
    time.sleep(0.2)  # until it hangs on the lock of the folder that goes
    clear(tmp_path / "store", force=True)
    first.kill()
    (tmp_path / "go").touch()
    assert second.communicate(timeout=20)[0] == "trains\n"
    assert (tmp_path / "store/one/done").is_dir()
    assert (tmp_path / "store/one/last_used").read_text() == "run-b\n"


def test_a_folder_that_vanishes_while_it_is_made_is_made_again_and_a_file_in_its_place_is_an_error(
    tmp_path, monkeypatch
):
    mkdir, calls = os.mkdir, []

    def late(path: object, mode: int) -> None:
        calls.append(path)
        if len(calls) == 1:
            raise FileExistsError(path)  # it was there, and is not any more
        mkdir(path, mode)

    monkeypatch.setattr(os, "mkdir", late)
    with claim(tmp_path / "one"):
        assert (tmp_path / "one/lock").exists()
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError), claim(tmp_path / "file"):
        pass


def test_no_two_jobs_have_a_training_at_once_however_often_it_is_pruned(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "say", lambda line: None)
    stores, until = tmp_path / "store", time.monotonic() + 1.5

    def work(number: int) -> None:
        while time.monotonic() < until:
            folder = stores / "ab"[number % 2]
            with claim(folder):
                os.close(os.open(folder / "inside", os.O_CREAT | os.O_EXCL))  # fails where another is inside
                if not (folder / "done").exists():
                    (folder / "part/model").mkdir(parents=True)
                    publish(folder / "part", folder / "done")
                assert (folder / "done/model").exists()
                (folder / "inside").unlink()
            number += 1
            assert "could not" not in (prune(stores, 0) or "")

    children = []
    for number in range(4):
        children.append(os.fork())
        if children[-1] == 0:
            try:
                work(number)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0, 0]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_the_log_says_so_and_only_what_rested_for_a_day_is_pruned(tmp_path, monkeypatch, capsys, number):
    stores = tmp_path / "store"
    training(stores, "recent", 1, age=3600, done=False)
    training(stores, "old", 1, age=2 * 24 * 3600)
    training(stores, "latest", 1, age=10)

    def no_locks(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with claim(tmp_path / "elsewhere/one"):
        pass
    assert os.strerror(number) in capsys.readouterr().out
    assert prune(stores, 0)
    assert names(stores) == {"recent", "latest"}


def test_an_error_of_the_lock_that_is_no_lack_of_locks_is_not_swallowed(tmp_path, monkeypatch):
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(OSError, match="broken disk"), claim(tmp_path / "one"):
        pass


def test_pruning_removes_the_least_recently_used_until_the_store_is_within_its_limit(tmp_path):
    stores = tmp_path / "store"
    training(stores, "third", 2, age=200)
    training(stores, "oldest", 3, age=900, done=False)
    training(stores, "second", 1, age=500)
    training(stores, "latest", 2, age=10)
    assert prune(stores, 0.1) is None
    assert prune(stores, 0.0042) == (f"removed 2 trainings, 4.0 MB, used least recently: {stores} may hold 0.0042 GB")
    assert names(stores) == {"third", "latest"}
    assert prune(stores, 0)
    assert names(stores) == {"latest"}, "the latest training stays, however small the limit"
    assert prune(tmp_path / "nowhere", 1) is None


def test_using_a_finished_training_and_writing_a_checkpoint_count_as_use(tmp_path):
    stores = tmp_path / "store"
    for name, age in (("a", 900), ("c", 800), ("b", 700)):
        training(stores, name, 1, age=age, done=name != "c")
    with claim(stores / "a"):
        os.utime(stores / "a/last_used", (1, 1))  # a long training: it counts when it ends
    (stores / "c/checkpoints/step-00000240").mkdir()
    assert {each.folder.name for each in trainings(stores)[1:]} == {"a", "c"}
    assert prune(stores, 0.0021)
    assert names(stores) == {"a", "c"}


def test_pruning_leaves_what_a_job_has(tmp_path, start):
    stores = tmp_path / "store"
    start(JOB, "run-a").stdout.readline()
    (stores / "one/checkpoints").mkdir()
    training(stores, "later", 1, age=-100)
    training(stores, "latest", 1, age=-200)
    assert prune(stores, 0)
    assert names(stores) == {"one", "latest"}


def test_what_was_used_since_it_was_listed_is_not_removed(tmp_path):
    stores = tmp_path / "store"
    training(stores, "a", 1, age=900)
    (seen,) = trainings(stores)
    with claim(stores / "a"):
        pass
    assert not store._remove(seen)
    assert (stores / "a/done").is_dir()
    (seen,) = trainings(stores)
    assert store._remove(seen)
    assert store._remove(seen), "another job was faster"
    assert not (stores / "a").exists()


def test_a_file_that_vanishes_under_the_removal_fails_nothing(tmp_path, monkeypatch):
    stores = tmp_path / "store"
    training(stores, "a", 1, age=900)
    training(stores, "b", 1, age=10)
    real, unlink = [], os.unlink

    def vanishing(path: object, **options: object) -> None:
        real.append(path)
        unlink(path, **options)
        if len(real) == 1:
            unlink(path, **options)  # as when another job removes it first

    monkeypatch.setattr(os, "unlink", vanishing)
    assert "removed 1 training," in prune(stores, 0)
    assert names(stores) == {"b"}


def test_a_removal_killed_anywhere_leaves_a_whole_training_or_none(tmp_path):
    # The k-th file operation of the removal kills it; 20 are more than it has.
    outcomes = []
    for k in range(20):
        stores = tmp_path / f"store{k}"
        training(stores, "a", 0.001, age=900)
        training(stores, "b", 0.001, age=10)
        if (child := os.fork()) == 0:
            die_at(k, "rename", "unlink", "rmdir")
            prune(stores, 0)
            os._exit(0)
        outcomes.append(os.waitpid(child, 0)[1])
        whole = (stores / "a/done/model/model.safetensors").exists()
        assert whole or not (stores / "a").exists()
        assert [each.folder.name for each in trainings(stores)] == (["a", "b"] if whole else ["b"])
        prune(stores, 1)
        assert names(stores) == ({"a", "b"} if whole else {"b"}), "the next one sweeps what is left"
    assert outcomes[0] == signal.SIGKILL
    assert outcomes[-1] == 0
    assert outcomes.count(signal.SIGKILL) > 5


def die_at(k: int, *operations: str) -> None:
    """From now on the k-th of these operations of `os` (from 0) kills this process before it happens."""
    done = iter(range(k))

    def counted(operation: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: object, **options: object) -> None:
            if next(done, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            operation(*arguments, **options)

        return call

    for name in operations:
        setattr(os, name, counted(getattr(os, name)))


def test_clearing_refuses_an_unfinished_training_unless_it_is_forced(tmp_path):
    stores = tmp_path / "store"
    training(stores, "a", 1, age=10)
    assert program(tmp_path, "clear") == (0, "removed 1 training, 1.0 MB, from store\n", "")
    assert names(stores) == set()
    training(stores, "a", 1, age=10)
    training(stores, "b", 1, age=10, done=False)
    code, out, error = program(tmp_path, "clear")
    assert (code, out) == (1, "")
    assert "store/b  step 120 of 1,500\n" in error
    assert "--force" in error
    assert names(stores) == {"a", "b"}
    assert program(tmp_path, "clear", "--force")[0] == 0
    assert names(stores) == set()


def test_clearing_refuses_while_a_job_trains(tmp_path, start):
    start(JOB, "run-a").stdout.readline()
    with pytest.raises(StageError, match="store/one  begun, a job has it"):
        clear(tmp_path / "store")


def test_the_list_names_state_size_use_and_runs(tmp_path):
    stores = tmp_path / "store"
    training(stores, "a" * 32, 1.5, age=0)
    training(stores, "b" * 32, 0.2, age=100_000, done=False)
    (stores / ".trash-c").mkdir()
    with claim(stores / ("a" * 32), "variant"):
        pass
    lines = program(tmp_path, "list")[1].splitlines()
    used = time.strftime("%Y-%m-%d %H:%M", time.localtime((stores / ("a" * 32) / "last_used").stat().st_mtime))
    assert re.split("  +", lines[1]) == ["a" * 32, "finished", "1.5 MB", used, f"run-{'a' * 32}, variant"]
    assert lines[2].startswith(f"{'b' * 32}  step 120 of 1,500  0.2 MB  ")
    assert lines[3:] == ["2 trainings, 1.7 MB"]
    assert program(tmp_path, "prune", "--limit-gb", "0.001")[1].startswith("removed 1 training, 0.2 MB")


def program(folder: Path, *arguments: str) -> tuple[int, str, str]:
    """Exit code, output and errors of the command line, in a Python that sees no installed package."""
    command = [sys.executable, "-S", "-E", str(PROGRAM), "--store", "store", *arguments]
    done = subprocess.run(command, cwd=folder, text=True, capture_output=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_the_store_is_light(tmp_path):
    code = f"{HEAD}import snaketune.store\nprint([m for m in ('torch', 'numpy', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
