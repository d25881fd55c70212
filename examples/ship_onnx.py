"""Ship a plan as an ONNX file, and run that file without aiq."""

import numpy as np
import onnxruntime
import torch
from own_model import loader, network

import aiq


def main() -> None:
    """Export a plan, open the file in ONNX Runtime, and compare it with the network."""
    model = network()
    data = loader()
    inputs = data[0][0]
    plan = aiq.search(
        model, "epyc_zen4_2vcpu", data, runtime="onnxruntime", formats="w8a8", max_drop=1.0
    )
    aiq.export(plan, model, "model.onnx", data=data)

    session = onnxruntime.InferenceSession(
        "model.onnx",
        providers=["CPUExecutionProvider"],
        # This optimiser rounds float32 layers between int8 layers.
        disabled_optimizers=["WeightBiasQuantization"],
    )
    (name,) = [entry.name for entry in session.get_inputs()]
    (logits,) = session.run(None, {name: inputs.numpy()})
    with torch.no_grad():
        expected = model(inputs).numpy()
    agree = np.mean(logits.argmax(1) == expected.argmax(1))
    print(f"model.onnx answers like float32 on {agree:.0%} of {len(inputs)} samples")


if __name__ == "__main__":
    main()
