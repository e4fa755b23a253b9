"""Where the text comes from, and the windows that are cut out of it."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigpt import data
from minigpt.data import TokenData, load_text, split_text
from minigpt.places import VALIDATION_STREAM, shuffled_places


class TestLoadText:
    def test_a_file_of_any_suffix(self, tmp_path):
        path = tmp_path / "verses.poem"
        path.write_bytes("Ä rose\r\nis a rose\n".encode())
        assert load_text(path) == "Ä rose\nis a rose\n"

    def test_a_byte_order_mark_is_no_text(self, tmp_path):
        path = tmp_path / "windows.txt"
        path.write_bytes("hello".encode("utf-8-sig"))
        assert load_text(str(path)) == "hello"

    def test_a_folder_is_joined_in_the_order_of_its_paths(self, tmp_path):
        for name in ("b/2.md", "a.txt", "b/1.TXT", "c.json", ".git/x.txt", "b/.hidden.txt"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(name)
        assert load_text(tmp_path) == "a.txt\n\nb/1.TXT\n\nb/2.md"

    def test_python_carries_enough_prose(self):
        text = load_text()
        assert len(text) > 300_000
        assert text == load_text()
        assert "The standard library" in text or "statement" in text

    def test_without_the_help_topics_the_docstrings_do(self, monkeypatch):
        monkeypatch.setattr(data, "_python_help_topics", lambda: "")
        text = load_text()
        assert len(text) > 300_000
        assert "Remove any common leading whitespace" in text  # textwrap.dedent

    def test_a_missing_path(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="nowhere.txt: no such file or folder"):
            load_text(tmp_path / "nowhere.txt")

    def test_a_folder_without_text(self, tmp_path):
        (tmp_path / "photo.png").write_bytes(b"\x89PNG")
        with pytest.raises(FileNotFoundError, match=r"no text file .*\.txt"):
            load_text(tmp_path)

    @pytest.mark.parametrize("content", ["", " \n\n", "\ufeff"])
    def test_an_empty_text(self, tmp_path, content):
        path = tmp_path / "empty.txt"
        path.write_text(content, encoding="utf-8")
        with pytest.raises(ValueError, match="empty.txt: the text is empty"):
            load_text(path)

    def test_not_utf8_names_the_byte(self, tmp_path):
        path = tmp_path / "latin.txt"
        path.write_bytes(b"caf\xe9 au lait")
        with pytest.raises(ValueError, match=r"latin.txt: not UTF-8 .* byte 3 \(0xe9\)"):
            load_text(path)

    def test_binary_names_the_byte(self, tmp_path):
        path = tmp_path / "weights.bin"
        path.write_bytes(b"abc\x00\x01")
        with pytest.raises(ValueError, match="weights.bin: a binary file .* byte 3"):
            load_text(path)

    @pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root reads everything")
    def test_an_unreadable_file(self, tmp_path):
        path = tmp_path / "secret.txt"
        path.write_text("x")
        path.chmod(0)
        with pytest.raises(PermissionError):
            load_text(path)


class TestSplitText:
    @given(st.text(max_size=60))
    def test_nothing_is_lost(self, text):
        train, validation = split_text(text)
        assert train + validation == text
        assert len(train) == len(text) * 9 // 10

    def test_tinyshakespeare_as_published(self):
        folder = os.environ.get("MINIGPT_TEST_DATA")
        path = Path(folder or "", "tinyshakespeare.txt")
        if not folder or not path.exists():
            pytest.skip("MINIGPT_TEST_DATA names no folder with tinyshakespeare.txt")
        train, validation = split_text(load_text(path))
        assert (len(train), len(validation)) == (1_003_854, 111_540)  # nanoGPT, README and prepare


class TestTokenData:
    def test_the_smallest_type_that_holds_the_vocabulary(self):
        assert TokenData([0, 65535], 65536).ids.dtype == np.uint16
        assert TokenData([0, 65536], 65537).ids.dtype == np.uint32

    @pytest.mark.parametrize(("ids", "worst"), [([1, 5], 5), ([-1, 2], -1)])
    def test_ids_outside_the_vocabulary(self, ids, worst):
        with pytest.raises(IndexError, match=f"part: token {worst} is outside the vocabulary of 5"):
            TokenData(ids, 5, "part")

    @pytest.mark.parametrize("ids", [[[1, 2]], [0.5], ["a"]])
    def test_what_is_no_row_of_ids(self, ids):
        with pytest.raises(ValueError, match="expected one row of integer ids"):
            TokenData(ids, 5)

    def test_too_short_for_the_context_tells_both_numbers_and_the_way_out(self):
        short = TokenData(range(10), 10, "validation split")
        with pytest.raises(ValueError, match=r"validation split: 10 tokens, .*context of 10 .*"
                                             r"at least 11: .*--set block_size=9"):
            short.random_batch(2, 10, seed=0, step=0)
        short.random_batch(2, 9, seed=0, step=0)  # what the message advises

    def test_an_empty_split(self):
        with pytest.raises(ValueError, match="split: 0 tokens, .* prepare it with another"):
            TokenData([], 10, "validation split").require_window(4)

    def test_the_fingerprint_is_of_the_ids_alone(self):
        assert TokenData([1, 2, 3], 10).fingerprint() == TokenData([1, 2, 3], 70_000).fingerprint()
        assert TokenData([1, 2, 3], 10).fingerprint() != TokenData([1, 3, 2], 10).fingerprint()


class TestRandomBatch:
    numbers = TokenData(range(1000), 1000)

    def batch(self, **changes):
        arguments = {"seed": 7, "step": 3, "micro_batch": 0, **changes}
        return self.numbers.random_batch(4, 8, **arguments)

    def test_targets_follow_their_inputs(self):
        inputs, targets = self.batch()
        assert inputs.shape == targets.shape == (4, 8)
        assert inputs.dtype == targets.dtype == np.int64
        assert (targets == inputs + 1).all()
        assert (np.diff(inputs, axis=1) == 1).all()

    def test_the_same_whatever_was_drawn_before(self):
        first = self.batch()[0]
        np.random.seed(0)
        self.batch(step=900)
        assert (self.batch()[0] == first).all()

    @pytest.mark.parametrize(
        "change", [{"seed": 8}, {"step": 4}, {"micro_batch": 1}, {"stream": VALIDATION_STREAM}]
    )
    def test_each_argument_counts(self, change):
        assert (self.batch()[0] != self.batch(**change)[0]).any()

    def test_places_are_frozen(self):
        # Were they to change, resumed runs would go on with other batches than they started with.
        assert self.batch()[0][:, 0].tolist() == [984, 390, 610, 540]

    def test_every_window_occurs_and_none_beyond_the_end(self):
        tokens = TokenData(range(12), 12)
        starts = set()
        for step in range(50):
            inputs, targets = tokens.random_batch(4, 8, seed=0, step=step)
            starts |= set(inputs[:, 0].tolist())
            assert targets.max() <= 11
        assert starts == {0, 1, 2, 3}


class TestEpochs:
    """Epochs without repeats: each window of an epoch once, in an order that can be taken up
    anywhere.
    """

    def starts(self, n, block, first, rows, batch=3, **options):
        tokens = TokenData(np.arange(n) % 60_000, 60_000)
        found = []
        for row in range(first, first + rows, batch):
            inputs, targets = tokens.epoch_batch(batch, block, seed=5, row=row, **options)
            assert (targets == inputs + 1).all() and inputs.shape == (batch, block)
            found += inputs[:, 0].tolist()
        return found

    @given(n=st.integers(9, 400), block=st.integers(2, 8), epoch=st.integers(0, 3))
    def test_an_epoch_has_each_window_once(self, n, block, epoch):
        windows = max(1, (n - 1) // block - 1)
        starts = self.starts(n, block, epoch * windows, windows, batch=1)
        assert len(set(starts)) == windows and 0 <= min(starts) and max(starts) + block < n
        assert set(np.diff(sorted(starts)).tolist()) <= {block}     # side by side, no gap
        if windows > 1:
            assert n - 1 - windows * block < 2 * block               # what is left out

    def test_epochs_differ_in_order_and_in_their_cuts(self):
        epochs = [self.starts(1000, 8, epoch * 123, 123) for epoch in range(4)]
        assert sorted(epochs[0]) != epochs[0] != epochs[1]
        assert len({starts[0] % 8 for starts in epochs}) > 1

    def test_a_batch_may_reach_into_the_next_epoch_and_be_taken_up_anywhere(self):
        whole = self.starts(1000, 8, 0, 300)
        assert self.starts(1000, 8, 120, 30, batch=10) == whole[120:150]

    def test_the_text_s_own_order(self):
        assert self.starts(50, 8, 0, 9, shuffled=False) == [0, 8, 16, 24, 32, 40, 0, 8, 16]

    def test_the_windows_together_are_the_text(self):
        assert sorted(self.starts(41, 8, 0, 6, shuffled=False))[1:] == [0, 8, 16, 24, 32]

    def test_too_short(self):
        with pytest.raises(ValueError, match="needs at least 11"):
            TokenData(range(10), 10).epoch_batch(2, 10, seed=0, row=0)


class TestShuffledPlaces:
    @pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 16, 17, 1000, 4097])
    def test_a_permutation(self, count):
        rows = np.arange(2 * count)
        places = shuffled_places(count, rows, seed=1)
        for epoch in (places[:count], places[count:]):
            assert sorted(epoch.tolist()) == list(range(count))

    def test_every_place_is_as_likely_everywhere(self):
        """Chi-square of a place at a row, over 4000 epochs: 99 degrees of freedom, so below 149
        with a probability of 0.999.
        """
        count, epochs = 10, 4000
        table = shuffled_places(count, np.arange(count * epochs), seed=3).reshape(epochs, count)
        counts = np.stack([np.bincount(column, minlength=count) for column in table.T])
        assert ((counts - epochs / count) ** 2 / (epochs / count)).sum() < 149
        following = (table[:, 1:] == table[:, :-1] + 1).mean()       # 1 of 10 for true shuffles
        assert following == pytest.approx(0.1, abs=0.01)

    def test_a_corpus_of_any_size(self):
        rows = np.array([0, 1, 10**12 - 1, 10**12])
        places = shuffled_places(10**12, rows, seed=0)
        assert len(set(places.tolist())) == 4 and 0 <= places.min() and places.max() < 10**12

    def test_the_order_is_frozen(self):
        assert shuffled_places(9, np.arange(9), seed=0).tolist() == [6, 4, 3, 1, 2, 5, 7, 8, 0]


class TestWindows:
    @given(n=st.integers(2, 60), batch=st.integers(1, 5), block=st.integers(1, 9))
    def test_every_token_but_the_first_is_a_target_once(self, n, batch, block):
        inputs_seen, targets_seen = [], []
        for inputs, targets in TokenData(range(n), n).windows(batch, block):
            assert inputs.shape == targets.shape
            assert inputs.shape[0] <= batch and inputs.shape[1] <= block
            inputs_seen += inputs.ravel().tolist()
            targets_seen += targets.ravel().tolist()
        assert inputs_seen == list(range(n - 1))
        assert targets_seen == list(range(1, n))

    def test_only_the_last_batch_may_be_shorter_rows(self):
        shapes = [x.shape for x, _ in TokenData(range(24), 24).windows(2, 4)]
        assert shapes == [(2, 4), (2, 4), (1, 4), (1, 3)]
