"""Other engines that can train on a phone, on the same problem: what `bench --against` compares with."""

from collections.abc import Mapping

from pocketfed.simulator.bench.peers.peer import EagerTrainer, Peer, Trainer, Workload, check_losses

__all__ = ["PEERS", "EagerTrainer", "Peer", "Trainer", "Workload", "check_losses"]

_EVERY = (
    Peer("stock", "pip install executorch==1.4.1", ("executorch.extension.training",), f"{__name__}.stock"),
    Peer(
        "onnxruntime",
        "pip install onnxruntime-training-cpu==1.19.2 onnx==1.23.2",
        ("onnxruntime.training", "onnx"),
        f"{__name__}.onnxruntime",
    ),
    Peer(
        "litert",
        # TensorFlow 2.19 and later, and ai-edge-litert, come without the operators that gradients need; 2.18 pins
        # older versions of numpy and protobuf than ours, with which it runs all the same.
        "pip install --no-deps tensorflow-cpu==2.18.1 absl-py astunparse gast google-pasta h5py keras libclang "
        "ml-dtypes namex opt-einsum optree six termcolor wheel wrapt",
        ("tensorflow",),
        f"{__name__}.litert",
    ),
    Peer("mnn", "pip install MNN==3.6.1", ("MNN",), f"{__name__}.mnn"),
)

PEERS: Mapping[str, Peer] = {peer.name: peer for peer in _EVERY}
"""Every peer by name."""
