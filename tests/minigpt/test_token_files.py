"""Files of tokens that others wrote: nanoGPT's without a header, llm.c's with one."""

import json

import numpy as np
import pytest

from minigpt.data import TokenData
from minigpt.token_files import Prepared, ShardedIds, holds_tokens, map_tokens, read_splits

IDS = np.arange(1000) % 500


def llm_c(ids, magic=20240520, version=1, count=None, dtype="<u2"):
    """As write_datafile in llm.c's dev/data/data_common.py makes it."""
    header = np.zeros(256, dtype="<i4")
    header[:3] = magic, version, len(ids) if count is None else count
    return header.tobytes() + np.asarray(ids, dtype).tobytes()


def write(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "vocab_size", "dtype"),
    [
        (IDS.astype("<u2").tobytes(), 50257, np.uint16),
        (IDS.astype("<u4").tobytes(), 70_000, np.uint32),
        (llm_c(IDS), 50257, np.uint16),
        (llm_c(IDS), 70_000, np.uint16),
        (llm_c(IDS, 20240801, 7, dtype="<u4"), 128_256, np.uint32),
        (IDS[:1].astype("<u2").tobytes(), 50257, np.uint16),
    ],
)
def test_known_formats(tmp_path, content, vocab_size, dtype):
    ids = map_tokens(write(tmp_path / "x.bin", content), vocab_size)
    assert ids.dtype == dtype and isinstance(ids, np.memmap) and not ids.flags.writeable
    assert ids.tolist() == IDS[: len(ids)].tolist() and len(ids) in (1, 1000)
    held = TokenData(ids, vocab_size)
    assert np.shares_memory(held.ids, ids)                  # mapped, not loaded
    assert held.fingerprint() == TokenData(IDS[: len(ids)], vocab_size).fingerprint()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"odd", "3 bytes are no row of 2-byte ids"),
        (llm_c(IDS, count=1001), "header says 1,001 tokens, and 1,000 are there"),
        (llm_c(IDS)[:-2], "header says 1,000 tokens, and 999 are there"),
        (llm_c(IDS)[:500], "500 bytes"),
        (llm_c(IDS, version=2), "version 2 of llm.c's format 20240520; only 1 is known"),
        (llm_c(IDS, count=-1), "header says -1 tokens"),
    ],
)
def test_damaged_files(tmp_path, content, message):
    with pytest.raises(ValueError, match=f"x.bin: .*{message}"):
        map_tokens(write(tmp_path / "x.bin", content), 50257)


def test_an_empty_file_has_no_tokens(tmp_path):
    assert len(map_tokens(write(tmp_path / "x.bin", b""), 50257)) == 0


def test_one_file_is_split_as_text_is(tmp_path):
    path = write(tmp_path / "x.bin", IDS.astype("<u2").tobytes())
    train, validation = read_splits(path, 500)
    assert (len(train), len(validation)) == (900, 100)
    assert np.concatenate([train, validation]).tolist() == IDS.tolist()


def test_nanogpt_s_folder(tmp_path):
    write(tmp_path / "train.bin", IDS[:700].astype("<u2").tobytes())
    with pytest.raises(FileNotFoundError):
        read_splits(tmp_path, 500)
    write(tmp_path / "val.bin", IDS[700:].astype("<u2").tobytes())
    assert holds_tokens(tmp_path)
    assert [len(split) for split in read_splits(tmp_path, 500)] == [700, 300]


def test_shards_are_one_row(tmp_path):
    """llm.c's names; the parts are of different sizes, one of them empty."""
    for number, part in enumerate(np.split(IDS, [300, 300, 701])):
        write(tmp_path / f"edu_fineweb_train_{number:06d}.bin", llm_c(part))
    with pytest.raises(FileNotFoundError, match="no val.bin there, nor any other .bin file"):
        read_splits(tmp_path, 500)
    write(tmp_path / "edu_fineweb_val_000000.bin", llm_c(IDS[:77]))
    assert holds_tokens(tmp_path)
    train, validation = read_splits(tmp_path, 500)
    assert isinstance(train, ShardedIds) and len(train) == 1000 and len(validation) == 77
    data, whole = TokenData(train, 500), TokenData(IDS, 500)
    assert data.fingerprint() == whole.fingerprint()
    for step in range(20):      # windows of 60: some reach across two borders
        for one, other in zip(data.random_batch(4, 60, seed=1, step=step),
                              whole.random_batch(4, 60, seed=1, step=step)):
            assert (one == other).all()


def test_slices_of_shards():
    parts = [IDS[:3], IDS[3:3], IDS[3:10]]
    ids = ShardedIds(parts)
    for start in range(11):
        for stop in range(11):
            assert ids[start:stop].tolist() == IDS[:10][start:stop].tolist()
    assert ids[-4:].tolist() == [6, 7, 8, 9] and ids[:100].tolist() == IDS[:10].tolist()
    assert np.shares_memory(ids[4:9], IDS)                      # mapped, not loaded
    with pytest.raises(ValueError, match="only slices of step 1"):
        ids[::2]
    with pytest.raises(ValueError, match="of one type, not uint16, uint32"):
        ShardedIds([np.zeros(2, "<u4"), np.zeros(2, "<u2")])


def test_an_id_of_another_vocabulary(tmp_path):
    ids = map_tokens(write(tmp_path / "x.bin", IDS.astype("<u2").tobytes()), 400)
    with pytest.raises(IndexError, match=r"token 400 is outside .* of 400 \(position 400"):
        TokenData(ids, 400)


@pytest.mark.parametrize(
    "change",
    [{"format": 2}, {"vocab_size": "500"}, {"train_tokens": None}, {"more": 1}],
)
def test_a_damaged_description(tmp_path, change):
    about = Prepared(500, 700, 300, 5000, 0.1, "ab", "cd").to_dict() | change
    (tmp_path / "prepared.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match=r"prepared\.json"):
        Prepared.read(tmp_path)


def test_a_description_that_doesn_t_fit(tmp_path):
    about = Prepared(500, 700, 300, 5000, 0.1, "ab", "cd").to_dict()
    (tmp_path / "prepared.json").write_text(json.dumps(about))
    write(tmp_path / "train.bin", IDS[:700].astype("<u2").tobytes())
    write(tmp_path / "val.bin", IDS[700:-1].astype("<u2").tobytes())
    with pytest.raises(ValueError, match="val.bin: 299 tokens, but prepared.json says 300"):
        read_splits(tmp_path, 500)
    with pytest.raises(ValueError, match="a vocabulary of 500 tokens, and this tokenizer has 501"):
        read_splits(tmp_path, 501)
