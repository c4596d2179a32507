"""Names of packages: those of conda packages and of imported modules, and what is retired."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..specification import WHEELS
from .files import needing

_OTHERWISE = """
    dask-core=dask faiss=faiss-cpu keras-gpu=keras matplotlib-base=matplotlib
    msgpack-python=msgpack opencv=opencv-python-headless psycopg2=psycopg2-binary
    py-lightgbm=lightgbm py-opencv=opencv-python-headless py-xgboost=xgboost
    py-xgboost-cpu=xgboost py-xgboost-gpu=xgboost pyspark-base=pyspark pytables=tables
    python-flatbuffers=flatbuffers python-graphviz=graphviz python-lmdb=lmdb
    python-xxhash=xxhash pytorch=torch pytorch-cpu=torch pytorch-gpu=torch redis-py=redis
    ruamel-yaml=ruamel.yaml seaborn-base=seaborn tensorflow-gpu=tensorflow
    tensorflow-mkl=tensorflow
"""
PIP_NAMES: Mapping[str, str] = dict(each.split("=") for each in _OTHERWISE.split())
"""Canonical name in conda → name in PyPI, where the same import comes under another name."""

RETIRED = frozenset(
    {
        "azureml-contrib-functions",
        "azureml-contrib-services",
        "azureml-core",
        "azureml-defaults",
        "azureml-inference-server-http",
        "azureml-model-management-sdk",
        "azureml-sdk",
        "azureml-telemetry",
    }
)
"""Packages of the retired SDK that this runtime takes the place of."""

MONITORING = frozenset({"azureml-ai-monitoring", "azureml-monitoring"})
"""Packages that send what they collect to an agent of Azure ML's services."""

_WORDS = """
    arrow-cpp blas boost bzip2 c-ares c-compiler ca-certificates cairo clang cmake compilers conda
    cpuonly cuda cudatoolkit cudnn curl cxx-compiler expat ffmpeg fontconfig freetype gcc gdal-bin
    geos gfortran gflags git glib glog gmp graphviz gxx hdf5 icu intel-openmp java-jdk jpeg krb5
    lame lcms2 lz4-c make mkl mkl-fft mkl-random mkl-service mpc mpfr mpi mpich nccl ncurses ninja
    nodejs nomkl nss numpy-base openblas openh264 openjdk openjpeg openmpi openssl orc pcre perl
    pixman pkg-config proj pytorch-cuda pytorch-mutex qt r r-base re2 readline rust snappy sqlite
    tensorflow-base tensorflow-estimator-base tensorrt tk tzdata unixodbc utf8proc xz yaml yarn
    zlib zstd
"""
_NOT_PYTHON = frozenset(_WORDS.split())
_NOT_PYTHON_PATTERNS = re.compile(
    r"-|lib(?!rosa|cst|sass|usb1|archive-c|tmux|pysal).*|.*-(linux|osx|win)(-\w+)?|cuda-.*|r-.*"
    r"|.*-(impl|mutex|compiler)(-.*)?|.*-select|xorg-.*|gst.*-.*|mkl-.*|nvidia-(?!.*-cu).*|ld-.*"
)

_NAMES = """
    Crypto=pycryptodome MySQLdb=mysqlclient OpenSSL=pyopenssl PIL=pillow attr=attrs
    azure.core=azure-core azure.cosmos=azure-cosmos azure.eventhub=azure-eventhub
    azure.functions=azure-functions azure.identity=azure-identity azure.servicebus=azure-servicebus
    azureml.ai=azureml-ai-monitoring azureml.data=azureml-core bs4=beautifulsoup4 bson=pymongo
    cv2=opencv-python-headless,opencv-python,opencv-contrib-python,opencv-contrib-python-headless
    dateutil=python-dateutil docx=python-docx dotenv=python-dotenv faiss=faiss-cpu,faiss-gpu
    fitz=pymupdf git=gitpython google.auth=google-auth google.oauth2=google-auth
    google.protobuf=protobuf grpc=grpcio imblearn=imbalanced-learn jwt=pyjwt kafka=kafka-python
    magic=python-magic mlflow=mlflow,mlflow-skinny mpl_toolkits=matplotlib
    onnxruntime=onnxruntime,onnxruntime-gpu,onnxruntime-openvino,onnxruntime-directml
    pkg_resources=setuptools psycopg2=psycopg2-binary,psycopg2 pythonjsonlogger=python-json-logger
    pywt=pywavelets serial=pyserial skimage=scikit-image sklearn=scikit-learn skopt=scikit-optimize
    tensorflow=tensorflow,tensorflow-cpu,tensorflow-gpu,intel-tensorflow umap=umap-learn
    win32api=pywin32 xgboost=xgboost,xgboost-cpu yaml=pyyaml zmq=pyzmq
"""
DISTRIBUTIONS: Mapping[str, list[str]] = {
    module: names.split(",") for module, names in (each.split("=") for each in _NAMES.split())
}
"""Imported modules whose distribution has another name: all that bring it, first the usual one."""

_BROUGHT = """
    catboost: numpy pandas scipy
    inference-schema: numpy pandas python-dateutil pytz wrapt
    keras opencv-python opencv-python-headless scipy: numpy
    lightgbm xgboost: numpy scipy
    mlflow: numpy pandas pyyaml requests scikit-learn scipy
    onnx onnxruntime: numpy protobuf
    pandas: numpy python-dateutil pytz
    scikit-image: numpy scipy pillow networkx
    scikit-learn: numpy scipy joblib threadpoolctl
    tensorflow tensorflow-cpu: numpy keras protobuf requests
    torchvision: torch numpy pillow
    transformers: numpy pyyaml requests tqdm huggingface-hub
"""
BRINGS: Mapping[str, list[str]] = {
    name: line.partition(":")[2].split()
    for line in _BROUGHT.strip().splitlines()
    for name in line.partition(":")[0].split()
}
"""What these require in turn, for the case that they are not installed where the image is made."""

NAMESPACES: Mapping[str, int] = {"azure": 3, "google": 3, "azureml": 2, "mpl_toolkits": 1}
"""Folders of many distributions, each of which is named like its module, and how long that is."""


def canonical(name: str) -> str:
    """The name as PyPI compares names.

    Raises:
        PackagingError: packaging is not installed.
    """
    with needing("packaging", "Requirements cannot be read, for"):
        from packaging.utils import canonicalize_name
    return canonicalize_name(name)


def name_of(line: str) -> str:
    """The canonical name of the package in a line of requirements as it is written here."""
    wheel = line.removeprefix(f"./{WHEELS}/")
    found = re.match(r"[\w.]+" if wheel != line else r"[\w.-]+", wheel)
    return canonical(found[0]) if found else ""


def is_python(name: str) -> bool:
    """Whether a conda package of that canonical name can be a Python package."""
    if name in PIP_NAMES:
        return True
    if name.startswith("-"):
        return False
    return name not in _NOT_PYTHON and not _NOT_PYTHON_PATTERNS.fullmatch(name)
