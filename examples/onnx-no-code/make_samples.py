"""Write the same two handwritten digits in every format that the service reads."""

import json
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

FOLDER = Path(__file__).parent / "samples"


def main() -> None:
    rows = load_digits().data[[7, 8]].astype(np.float32)
    FOLDER.mkdir(exist_ok=True)
    lists = rows.tolist()
    (FOLDER / "digits.json").write_text(json.dumps({"data": lists}) + "\n")
    (FOLDER / "digits.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lists))
    (FOLDER / "digits.csv").write_text(
        "".join(",".join(f"{value:g}" for value in row) + "\n" for row in lists)
    )
    np.save(FOLDER / "digits.npy", rows)
    tensor = {"name": "pixels", "shape": [2, 64], "datatype": "FP32"}
    infer = {"id": "1", "inputs": [{**tensor, "data": rows.reshape(-1).tolist()}]}
    (FOLDER / "digits.v2.json").write_text(json.dumps(infer) + "\n")


if __name__ == "__main__":
    main()
