"""Whatever moment a run dies at, by a signal, a power cut or a full disk, no bit is lost."""

import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minigpt.run_folder import RunFolder, checkpoint_step, verify_checkpoint
from tests.minigpt.training_helpers import SMALL, TEXT, resume, same_ending, start, weights

KILLS = 20


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "sums.txt"
    path.write_text(TEXT)
    return SMALL.replace(data=str(path))


@pytest.mark.slow
def test_sigkill_at_random_moments_changes_no_bit(config, tmp_path):
    """The process is killed 20 times, as a power cut would, and resumed until it ends.

    With a constant rate the end of the run is no part of its arithmetic: the killed run gets some
    steps more than it has come to, and then the other as many, however quick the machine is.
    """
    config = config.replace(
        max_steps=10**6, schedule="constant", checkpoint_every=3, eval_every=50, order="epochs"
    )
    settings = [
        f"--set={key}={value}" for key, value in config.to_dict().items() if value is not None
    ]

    def begin(out, *more):
        command = [sys.executable, "-m", "minigpt", "train", "--resume", f"--out={out}"]
        return subprocess.Popen(
            [*command, *settings, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    # Of three steps and their checkpoint, saving takes the most time: it is what kills hit most.
    killed, whole = RunFolder(tmp_path / "killed"), RunFolder(tmp_path / "whole")
    dice = random.Random(0)
    for _ in range(KILLS):
        process = begin(killed.path)
        next((line for line in process.stdout if line.startswith("step")), None)  # it is under way
        time.sleep(dice.uniform(0, 1))
        assert process.poll() is None, process.communicate()
        process.kill()
        process.communicate()
        for checkpoint in killed.checkpoints():
            verify_checkpoint(checkpoint)
    last = checkpoint_step(killed.checkpoints()[-1]) + 20
    for folder in (killed, whole):
        _, complaints = begin(folder.path, f"--set=max_steps={last}").communicate()
        assert complaints == ""
    assert same_ending(killed.path, whole.path)
    rows = killed.log_path.read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == [str(step) for step in range(last + 1)]
    leftovers = [path for path in killed.path.rglob(".*") if path.name != ".lock"]
    assert leftovers == []


@pytest.fixture
def whole(config, tmp_path, monkeypatch):
    """The folder of the run that nothing interrupted."""
    monkeypatch.setattr("minigpt.training.plot_run", lambda log, title: None)
    start(config, tmp_path / "whole").run()
    return tmp_path / "whole"


class FullDisk:
    """Lets all writes to the disk fail from the call number ``after`` on: os.fsync, which each
    file goes through before it gets its name.
    """

    def __init__(self, after):
        self.after, self.calls = after, 0
        self.real = os.fsync

    def __call__(self, descriptor):
        self.calls += 1
        if self.calls > self.after:
            raise OSError(28, "No space left on device")
        self.real(descriptor)


def test_a_full_disk_at_every_file_loses_nothing(config, tmp_path, whole, monkeypatch):
    """Each file that the run writes is once the one that the disk has no room for; when there is
    room again, the run goes on as if nothing had happened.
    """
    disk = FullDisk(after=10**9)
    monkeypatch.setattr(os, "fsync", disk)
    start(config, tmp_path / "counting").run()
    files = disk.calls
    assert files > 50
    for after in range(1, files - 2, 7):  # the last two are of folders, which may not fail
        out = tmp_path / f"full-{after}"
        monkeypatch.setattr(os, "fsync", FullDisk(after))
        with pytest.raises(OSError, match="No space left"):
            start(config, out).run()
        monkeypatch.undo()
        monkeypatch.setattr("minigpt.training.plot_run", lambda log, title: None)
        saved = RunFolder(out).checkpoints()
        for checkpoint in saved:
            verify_checkpoint(checkpoint)
        assert list(out.rglob("*.tmp")) == list(out.rglob(".unfinished*")) == []
        (resume(out) if saved else start(config, out, overwrite=True)).run()
        assert same_ending(out, whole)


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on the size of a file there")
def test_a_file_that_can_not_grow_any_more(config, tmp_path, whole):
    """The same in a process whose writes the system itself refuses: a file may have 20,000 bytes,
    which is enough for the model and too little for the optimizer's state.
    """
    out = tmp_path / "run"
    settings = [
        f"--set={key}={value}" for key, value in config.to_dict().items() if value is not None
    ]
    done = subprocess.run(
        [sys.executable, "-m", "minigpt", "train", "--quiet", f"--out={out}", *settings],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "File too large" in done.stderr
    assert RunFolder(out).checkpoints() == [] and (out / "model.safetensors").exists()
    start(config, out, overwrite=True).run()
    assert same_ending(out, whole) and weights(out) == weights(whole)
