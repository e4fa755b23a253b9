"""Make golden/weights: small files of weights as torch and TensorFlow themselves write them.

    python tests/golden/make_weights.py torch [FOLDER]        (torch==2.13.0)
    python tests/golden/make_weights.py tensorflow [FOLDER]   (tensorflow-cpu 2.x; made with 2.21.0)

Tests that read them need neither. `expected.safetensors` has the values that they must give.

torch: zip.bin and legacy.bin, the same dict: tensors of several dtypes, views of one storage, a
transposed and a permuted one, an empty one and a number; legacy_protocol_4.bin, another pickle
protocol; big_endian.bin, the zip format as a machine of the other byte order writes it (bytes
swapped before, torch told that the order is "big"; torch reads it as it should).
tensorflow: tf/model.ckpt.*, a GPT-2 of one layer under OpenAI's names.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

FOLDER = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).parent / "weights"


def make_torch() -> None:
    """The files of torch, and what they must give."""
    from collections import OrderedDict

    import torch

    torch.manual_seed(0)
    base = torch.randn(6, 8)
    state = OrderedDict(
        plain=torch.randn(3, 4),
        transposed=torch.randn(3, 4).t(),
        permuted=torch.randn(2, 3, 4).permute(2, 0, 1),
        every_second=base[1:4, ::2],
        row=base[2],
        again=base,
        parameter=torch.nn.Parameter(torch.randn(5)),
        half=torch.randn(4, 5).half(),
        brain=torch.randn(7).bfloat16(),
        double=torch.randn(3).double(),
        integers=torch.arange(5),
        flags=torch.tensor([True, False]),
        bytes=torch.arange(4, dtype=torch.uint8),
        empty=torch.zeros(0, 3),
        number=torch.tensor(2.5),
    )
    state._metadata = {"": {"version": 1}}
    FOLDER.mkdir(parents=True, exist_ok=True)
    torch.save(state, FOLDER / "zip.bin")
    for protocol, name in ((2, "legacy"), (4, "legacy_protocol_4")):
        torch.save(
            state, FOLDER / f"{name}.bin", pickle_protocol=protocol,
            _use_new_zipfile_serialization=False,
        )  # fmt: skip
    swapped = {
        name: tensor.detach().clone()
        for name, tensor in state.items()
        if name in ("plain", "half", "brain", "double", "integers", "flags")
    }
    for tensor in swapped.values():
        tensor.untyped_storage().byteswap(tensor.dtype)
    real, sys.byteorder = sys.byteorder, "big"
    torch.save(swapped, FOLDER / "big_endian.bin")
    sys.byteorder = real
    for name, tensor in torch.load(FOLDER / "big_endian.bin").items():
        assert torch.equal(tensor, state[name]), "torch itself does not read it as it was meant"
    expected = {}
    for name, tensor in state.items():
        half = tensor.dtype in (torch.float16, torch.bfloat16)
        values = (tensor.float() if half else tensor).detach().contiguous().numpy()
        expected[name] = np.ascontiguousarray(values).reshape(tensor.shape)
    save_file(expected, FOLDER / "expected.safetensors")


def make_tensorflow() -> None:
    """The bundle of TensorFlow, and what it must give."""
    import tensorflow.compat.v1 as tf

    tf.disable_v2_behavior()
    rng = np.random.default_rng(0)
    V, P, C = 30, 8, 4
    shapes = {
        "wte": (V, C), "wpe": (P, C), "ln_f/g": (C,), "ln_f/b": (C,),
        "h0/ln_1/g": (C,), "h0/ln_1/b": (C,), "h0/ln_2/g": (C,), "h0/ln_2/b": (C,),
        "h0/attn/c_attn/w": (1, C, 3 * C), "h0/attn/c_attn/b": (3 * C,),
        "h0/attn/c_proj/w": (1, C, C), "h0/attn/c_proj/b": (C,),
        "h0/mlp/c_fc/w": (1, C, 4 * C), "h0/mlp/c_fc/b": (4 * C,),
        "h0/mlp/c_proj/w": (1, 4 * C, C), "h0/mlp/c_proj/b": (C,),
    }  # fmt: skip
    values = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    for name, value in values.items():
        tf.Variable(value, name=f"model/{name}")
    (FOLDER / "tf").mkdir(parents=True, exist_ok=True)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        saver = tf.train.Saver(save_relative_paths=True)
        saver.save(session, str(FOLDER / "tf" / "model.ckpt"), write_meta_graph=False)
    save_file(values, FOLDER / "tf" / "expected.safetensors")


if __name__ == "__main__":
    {"torch": make_torch, "tensorflow": make_tensorflow}[sys.argv[1]]()
