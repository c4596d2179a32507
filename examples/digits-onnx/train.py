"""Train a classifier on scikit-learn's 8x8 digits and convert it to ONNX for score.py."""

import argparse
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import skl2onnx
import sklearn
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

VERSIONS = (
    json.dumps(
        {
            "scikit-learn": sklearn.__version__,
            "skl2onnx": skl2onnx.__version__,
            "onnx": onnx.__version__,
        }
    )
    + "\n"
)


def convert(model: Pipeline, model_file: Path) -> None:
    """Save the model with two outputs: the labels, and a plain matrix of probabilities."""
    onnx_model = skl2onnx.convert_sklearn(
        model,
        initial_types=[("data", skl2onnx.common.data_types.FloatTensorType([None, 64]))],
        options={"zipmap": False},
        target_opset=15,  # old enough for onnxruntime 1.10
    )
    model_file.write_bytes(onnx_model.SerializeToString())


def train(model_file: Path) -> float:
    """Fit and convert the model; return the ONNX model's accuracy on the held-out fifth."""
    images, labels = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(
        images, labels, test_size=0.2, random_state=0, stratify=labels
    )
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    convert(model.fit(x_train, y_train), model_file)
    session = onnxruntime.InferenceSession(model_file, providers=["CPUExecutionProvider"])
    predicted = session.run(["label"], {"data": x_test.astype(np.float32)})[0]
    return float(np.mean(predicted == y_test))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "model")
    parser.add_argument("--force", action="store_true", help="train although the model is there")
    args = parser.parse_args()

    model_file = args.output / "digits.onnx"
    versions_file = args.output / "versions.json"
    current = versions_file.exists() and versions_file.read_text() == VERSIONS
    if model_file.exists() and current and not args.force:
        print(f"{model_file} is up to date (--force trains it again)")
        return
    args.output.mkdir(parents=True, exist_ok=True)
    accuracy = train(model_file)
    versions_file.write_text(VERSIONS)
    print(f"wrote {model_file} (accuracy {accuracy:.3f} on the test set)")


if __name__ == "__main__":
    main()
