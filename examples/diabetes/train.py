"""Train a ridge regression on scikit-learn's diabetes data and save it for score.py."""

import argparse
import json
from pathlib import Path

import joblib
import sklearn
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge
from sklearn.model_selection import train_test_split

VERSIONS = json.dumps({"scikit-learn": sklearn.__version__}) + "\n"


def train(model_file: Path) -> float:
    """Fit the model, save it, and return R² on the held-out fifth of the data."""
    features, target = load_diabetes(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(
        features, target, test_size=0.2, random_state=0
    )
    model = Ridge(alpha=0.4).fit(x_train, y_train)
    joblib.dump(model, model_file)
    return float(model.score(x_test, y_test))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "model")
    parser.add_argument("--force", action="store_true", help="train although the model is there")
    args = parser.parse_args()

    model_file = args.output / "sklearn_regression_model.pkl"
    versions_file = args.output / "versions.json"
    current = versions_file.exists() and versions_file.read_text() == VERSIONS
    if model_file.exists() and current and not args.force:
        print(f"{model_file} is up to date (--force trains it again)")
        return
    args.output.mkdir(parents=True, exist_ok=True)
    r2 = train(model_file)
    versions_file.write_text(VERSIONS)
    print(f"wrote {model_file} (R² {r2:.3f} on the test set)")


if __name__ == "__main__":
    main()
