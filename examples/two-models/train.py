"""Train two models and register both: the registry folder is what is served."""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import joblib
from sklearn.datasets import load_iris, load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scoring_runtime import Model


def register(registry: Path, name: str, model: object, description: str) -> None:
    """Save the model as a file, and register that."""
    with TemporaryDirectory() as folder:
        file = Path(folder, "model.pkl")
        joblib.dump(model, file)
        registered = Model.register(
            workspace=registry, model_path=file, model_name=name, description=description
        )
    print(f"registered {registered.id}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    folder = Path(__file__).parent / "azureml-models"
    parser.add_argument("--output", type=Path, default=folder)
    parser.add_argument("--force", action="store_true", help="register the next versions")
    args = parser.parse_args()
    if (args.output / "wine" / "1").exists() and not args.force:
        print(f"{args.output} is up to date (--force registers the next versions)")
        return

    iris, wine = load_iris(as_frame=True), load_wine(as_frame=True)
    species = [iris.target_names[each] for each in iris.target]
    first = make_pipeline(StandardScaler(), LogisticRegression()).fit(iris.data, species)
    second = RandomForestClassifier(n_estimators=50, random_state=0).fit(iris.data, species)
    cultivar = make_pipeline(StandardScaler(), LogisticRegression()).fit(wine.data, wine.target)
    register(args.output, "iris", first, "species by a logistic regression")
    register(args.output, "iris", second, "species by a random forest")
    register(args.output, "wine", cultivar, "cultivar of a wine")


if __name__ == "__main__":
    main()
