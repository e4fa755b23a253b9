"""How many blocks a launch has: enough for all of the work, and none without any."""

import pytest

from kernels import grids


@pytest.mark.parametrize(("version", "block", "blocks"), [
    ("matmul_naive", 64, -(-3 * 130 * 200 // 64)),
    ("matmul_coalesced", 64, -(-3 * 130 * 200 // 64)),
    ("matmul_tiles", 256, 3 * 9 * 13),          # 16 x 16 entries
    ("matmul_registers", 64, 3 * 3 * 4),        # 64 x 64
    ("matmul_vector", 256, 3 * 2 * 2),          # 128 x 128
    ("matmul_wmma", 128, 3 * 3 * 4),
    ("matmul_mma_bf16", 256, 3 * 2 * 2),
    ("matmul_rows", 128, 3 * 33 * 7),           # 4 rows x 32 columns
])
def test_matmul(version, block, blocks):
    assert grids.matmul(version, block, 130, 200, 3, False) == blocks


def test_matmul_of_few_rows_has_a_warp_a_column_of_a_transposed_b():
    assert grids.matmul("matmul_rows", 128, 5, 201, 1, True) == 2 * 51
    with pytest.raises(KeyError, match="matmul_nonsense"):
        grids.matmul("matmul_nonsense", 64, 1, 1, 1, False)


@pytest.mark.parametrize(("version", "blocks"), [
    ("softmax_naive", 2), ("softmax_warp", 17), ("softmax_block", 65),
    ("layer_norm_registers", 17), ("cross_entropy_vector", 65), ("softmax_long", 65),
    ("softmax_vector", 17), ("layer_norm_backward_rows", 65)])
def test_rows(version, blocks):
    assert grids.over_rows(version, 128 if "naive" not in version else 64, 65) == blocks


def test_the_others():
    assert grids.cross_entropy_backward("cross_entropy_backward_naive", 64, 5, 33) == 3
    assert grids.cross_entropy_backward("cross_entropy_backward_block", 64, 5, 33) == 5
    assert grids.cross_entropy_backward("cross_entropy_backward_vector", 64, 5, 33) == 5
    assert grids.attention("attention_tiles_64", 128, 6, 65) == 12      # 64 queries a block
    assert grids.attention("attention_mma_tf32_64", 128, 6, 65) == 12
    assert grids.attention("attention_rows", 128, 6, 65) == 390
    assert grids.attention_file("attention_mma_backward_tf32") == "attention_mma_backward.cu"
    assert grids.attention_file("attention_mma_tf32_64") == "attention_mma.cu"
    assert grids.attention_file("attention_softmax_backward_warp") == "attention.cu"
    assert grids.attention_softmax("attention_softmax_warp", 64, 65) == 33
    assert grids.attention_softmax("attention_softmax_naive", 64, 65) == 2
    assert [grids.layer_norm_backward(rows) for rows in (1, 256, 1024, 3200, 10**6)] == [
        1, 256, 256, 400, 512]
    assert [grids.gelu_backward_bias(rows, 3072) for rows in (1, 64, 1024, 10**6)] == [
        (24, 1), (24, 2), (24, 32), (24, 43)]
    assert grids.many([1, 4096, 4097]) == 4
    assert grids.copy_tiles(2, 33, 64) == 2 * 2 * 2
    assert [grids.striding(work, 64, 4) for work in (0, 1, 65, 1000)] == [1, 1, 2, 4]
