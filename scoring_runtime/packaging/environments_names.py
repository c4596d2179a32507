"""Names of packages: what conda calls otherwise, what is no Python package, what is retired."""

from __future__ import annotations

import re
from collections.abc import Mapping

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


def canonical(name: str) -> str:
    """The name as PyPI compares names (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def is_python(name: str) -> bool:
    """Whether a conda package of that canonical name can be a Python package."""
    if name in PIP_NAMES:
        return True
    if name.startswith("-"):
        return False
    return name not in _NOT_PYTHON and not _NOT_PYTHON_PATTERNS.fullmatch(name)
