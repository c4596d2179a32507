"""Train a classifier on scikit-learn's 8x8 digits and save it for score.py."""

import argparse
import json
from pathlib import Path

import joblib
import sklearn
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

VERSIONS = json.dumps({"scikit-learn": sklearn.__version__}) + "\n"


def train(model_file: Path) -> float:
    """Fit the model, save it, and return the accuracy on the held-out fifth of the data."""
    images, labels = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(
        images, labels, test_size=0.2, random_state=0, stratify=labels
    )
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(x_train, y_train)
    joblib.dump(model, model_file)
    return float(model.score(x_test, y_test))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "model")
    parser.add_argument("--force", action="store_true", help="train although the model is there")
    args = parser.parse_args()

    model_file = args.output / "sklearn_mnist_model.pkl"
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
