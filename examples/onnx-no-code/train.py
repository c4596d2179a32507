"""Train a classifier on scikit-learn's 8x8 digits and save it as ONNX: that file is all."""

import argparse
from pathlib import Path

import skl2onnx
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "model")
    args = parser.parse_args()

    images, labels = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(
        images, labels, test_size=0.2, random_state=0, stratify=labels
    )
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(x_train, y_train)
    converted = skl2onnx.convert_sklearn(
        model,
        initial_types=[("pixels", skl2onnx.common.data_types.FloatTensorType([None, 64]))],
        options={"zipmap": False},
        target_opset=15,
    )
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "digits.onnx").write_bytes(converted.SerializeToString())
    print(f"wrote {args.output / 'digits.onnx'} (accuracy {model.score(x_test, y_test):.3f})")


if __name__ == "__main__":
    main()
