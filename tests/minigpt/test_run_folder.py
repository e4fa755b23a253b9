"""Checkpoints that are whole or not there, and a log without gaps."""

import shutil
import subprocess

import pytest

from minigpt.run_folder import (
    DamagedCheckpointError,
    RunFolder,
    RunLog,
    checkpoint_step,
    verify_checkpoint,
)


def fill(folder, step, keep=2):
    with folder.new_checkpoint(step, keep) as path:
        for name in ("model.safetensors", "optimizer.safetensors", "trainer_state.json"):
            (path / name).write_text(f"{name} of {step}")


class TestRunFolder:
    @pytest.fixture
    def folder(self, tmp_path):
        folder = RunFolder(tmp_path / "run")
        for step in (100, 20, 1_000_000):
            fill(folder, step, keep=5)
        return folder

    def test_checkpoints_are_ordered_by_step(self, folder):
        assert [checkpoint_step(p) for p in folder.checkpoints()] == [20, 100, 1_000_000]
        assert folder.newest_good_checkpoint(pytest.fail).name == "step-1000000"

    def test_only_the_newest_are_kept(self, folder):
        fill(folder, 1_000_001, keep=2)
        assert [checkpoint_step(p) for p in folder.checkpoints()] == [1_000_000, 1_000_001]

    def test_the_sums_are_those_of_sha256sum(self, folder):
        if shutil.which("sha256sum") is None:
            pytest.skip("this system has no sha256sum")
        for checkpoint in folder.checkpoints():
            subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=checkpoint, check=True)

    @pytest.mark.parametrize(
        "name",
        ["model.safetensors", "optimizer.safetensors", "trainer_state.json", "SHA256SUMS"],
    )
    @pytest.mark.parametrize("how", ["flip a bit", "cut", "empty", "delete"])
    def test_every_damage_is_seen(self, folder, name, how):
        newest = folder.checkpoints()[-1]
        path = newest / name
        data = path.read_bytes()
        if how == "delete":
            path.unlink()
        elif how == "flip a bit":
            path.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
        else:
            path.write_bytes(data[:-1] if how == "cut" and name != "SHA256SUMS" else b"")
        with pytest.raises(DamagedCheckpointError, match="step-1000000"):
            verify_checkpoint(newest)
        told = []
        assert folder.newest_good_checkpoint(told.append).name == "step-000100"
        assert len(told) == 1 and told[0].startswith("passing over a damaged checkpoint: ")

    def test_sums_may_not_lead_outside(self, folder):
        newest = folder.checkpoints()[-1]
        sums = newest / "SHA256SUMS"
        sums.write_text(sums.read_text() + "0" * 64 + "  ../../secret\n")
        with pytest.raises(DamagedCheckpointError, match="garbled"):
            verify_checkpoint(newest)

    def test_all_damaged_is_an_error_and_none_is_none(self, folder, tmp_path):
        for checkpoint in folder.checkpoints():
            (checkpoint / "model.safetensors").write_text("")
        with pytest.raises(ValueError, match="all of its 3 checkpoints are damaged"):
            folder.newest_good_checkpoint(lambda text: None)
        assert RunFolder(tmp_path / "other").newest_good_checkpoint(pytest.fail) is None

    def test_a_failed_write_leaves_the_old_ones(self, folder):
        before = sorted(folder.path.rglob("*"))
        with pytest.raises(OSError, match="disk full"), folder.new_checkpoint(7, 1) as path:
            (path / "model.safetensors").write_text("half")
            raise OSError("disk full")
        assert sorted(folder.path.rglob("*")) == before

    def test_what_a_killed_run_left_is_removed(self, folder):
        leftover = folder.checkpoints_path / ".unfinished-step-000200"
        leftover.mkdir()
        (leftover / "model.safetensors").write_text("half")
        assert len(folder.checkpoints()) == 3
        fill(folder, 200, keep=9)
        assert not leftover.exists()
        verify_checkpoint(folder.checkpoints_path / "step-000200")

    def test_a_damaged_one_of_the_same_step_is_replaced(self, folder):
        path = folder.checkpoints_path / "step-000100"
        (path / "model.safetensors").write_text("")
        fill(folder, 100, keep=9)
        verify_checkpoint(path)

    def test_clear_deletes_only_what_a_run_writes(self, folder):
        for name in ("log.csv", "model.safetensors", "notes.txt"):
            (folder.path / name).write_text("")
        assert folder.in_the_way() == ["checkpoints", "model.safetensors", "log.csv"]
        folder.clear()
        assert [p.name for p in sorted(folder.path.iterdir())] == ["checkpoints", "notes.txt"]
        assert folder.in_the_way() == []


class TestRunLog:
    def test_rows_past_the_resumed_step_and_cut_rows_are_dropped(self, tmp_path):
        path = tmp_path / "log.csv"
        with RunLog(path, 0) as log:
            log.write(0, val_loss=6.25)
            for step in (10, 20, 30):
                log.write(step, train_loss=1 / step, lr=1e-3)
        with open(path, "a") as file:
            file.write("40,0.1")
        with RunLog(path, 20) as log:
            log.write(20, train_loss=9.0)  # told already
            log.write(25, train_loss=2.0)
        assert path.read_text().splitlines() == [
            "step,train_loss,val_loss,lr,grad_norm,tokens_per_s",
            "0,,6.25,,,",
            "10,0.1,,0.001,,",
            "20,0.05,,0.001,,",
            "25,2,,,,",
        ]

    @pytest.mark.parametrize("content", [b"", b"nonsense\n", b"\xff\x00\n1,2\n"])
    def test_a_damaged_log_begins_again(self, tmp_path, content):
        path = tmp_path / "log.csv"
        path.write_bytes(content)
        RunLog(path, 50).__exit__()
        assert path.read_text() == "step,train_loss,val_loss,lr,grad_norm,tokens_per_s\n"
