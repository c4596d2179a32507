"""Train a ridge regression on scikit-learn's diabetes data and save it as an MLflow model."""

import argparse
import json
import shutil
from pathlib import Path

import mlflow.sklearn
import sklearn
from mlflow.models import infer_signature
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge
from sklearn.model_selection import train_test_split

VERSIONS = json.dumps({"mlflow": mlflow.__version__, "scikit-learn": sklearn.__version__}) + "\n"


def train(folder: Path) -> float:
    """Fit the model, save it with its signature, and return R² on the rest of the data."""
    features, target = load_diabetes(return_X_y=True, as_frame=True)
    x_train, x_test, y_train, y_test = train_test_split(
        features, target, test_size=0.2, random_state=0
    )
    model = Ridge(alpha=0.4).fit(x_train, y_train)
    mlflow.sklearn.save_model(
        model,
        folder,
        signature=infer_signature(x_train, model.predict(x_train)),
        input_example=x_test[:2],
        serialization_format="skops",
        pip_requirements=[f"scikit-learn=={sklearn.__version__}", "skops"],
    )
    return float(model.score(x_test, y_test))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "model")
    parser.add_argument("--force", action="store_true", help="train although the model is there")
    args = parser.parse_args()

    folder = args.output / "mlflow_diabetes"
    versions_file = args.output / "versions.json"
    current = versions_file.exists() and versions_file.read_text() == VERSIONS
    if (folder / "MLmodel").exists() and current and not args.force:
        print(f"{folder} is up to date (--force trains it again)")
        return
    args.output.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    r2 = train(folder)
    versions_file.write_text(VERSIONS)
    print(f"wrote {folder} (R² {r2:.3f} on the test set)")


if __name__ == "__main__":
    main()
