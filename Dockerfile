# The image of one target:
#   docker build --target functions -t scoring-functions .
#   docker build --target standalone -t scoring-standalone .
# Without --target it is functions. Another base image, such as one with an own certificate or
# system libraries: --build-arg BASE_IMAGE=…
# Packages of a private index: --build-arg PIP_INDEX_URL=… or PIP_EXTRA_INDEX_URL=…; these and
# PIP_CERT, a file of the base image, are not kept in the image.
ARG BASE_IMAGE=

FROM ${BASE_IMAGE:-mcr.microsoft.com/azure-functions/python:4-python3.11} AS functions-packages
ARG PIP_CERT=
ARG PIP_INDEX_URL=
ARG PIP_EXTRA_INDEX_URL=
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_PROGRESS_BAR=off \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY requirements-functions.lock ./
RUN packages() { python -m pip install --target /packages --log /tmp/pip.log --require-hashes -r requirements-functions.lock; }; \
    packages || { tools=build-essential; \
      if grep -q "Cannot find command .git." /tmp/pip.log; then tools="git $tools"; \
      elif ! grep -qE "exited with [0-9]|Failed building wheel" /tmp/pip.log; then \
        exit 1; \
      fi; \
      apt-get update -qq \
      && apt-get install -y -qq --no-install-recommends $tools \
      && packages; \
    }

FROM ${BASE_IMAGE:-mcr.microsoft.com/azure-functions/python:4-python3.11} AS functions
ENV AzureWebJobsScriptRoot=/home/site/wwwroot \
    AzureFunctionsJobHost__Logging__Console__IsEnabled=true \
    FUNCTIONS_WORKER_RUNTIME=python \
    PYTHON_ISOLATE_WORKER_DEPENDENCIES=1 \
    PYTHONPATH=/home/site/wwwroot/.python_packages/lib/site-packages \
    PYTHONUNBUFFERED=1
COPY --from=functions-packages /packages/ /home/site/wwwroot/.python_packages/lib/site-packages/
COPY scoring_runtime/ /home/site/wwwroot/scoring_runtime/
RUN python -m compileall -q --invalidation-mode checked-hash /home/site/wwwroot/scoring_runtime
COPY host.json function_app.py /home/site/wwwroot/
LABEL \
    org.opencontainers.image.title="scoring-runtime" \
    org.opencontainers.image.version="0.2.0" \
    org.opencontainers.image.description="A trained model behind HTTP requests, dropped blobs and queue messages" \
    org.opencontainers.image.licenses="MIT"

FROM ${BASE_IMAGE:-python:3.11-slim} AS standalone-packages
ARG PIP_CERT=
ARG PIP_INDEX_URL=
ARG PIP_EXTRA_INDEX_URL=
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_PROGRESS_BAR=off \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN python -m venv --without-pip /opt/venv
COPY requirements-standalone.lock ./
RUN packages() { python -m pip --python /opt/venv/bin/python install --log /tmp/pip.log --require-hashes -r requirements-standalone.lock; }; \
    packages || { tools=build-essential; \
      if grep -q "Cannot find command .git." /tmp/pip.log; then tools="git $tools"; \
      elif ! grep -qE "exited with [0-9]|Failed building wheel" /tmp/pip.log; then \
        exit 1; \
      fi; \
      apt-get update -qq \
      && apt-get install -y -qq --no-install-recommends $tools \
      && packages; \
    }

FROM ${BASE_IMAGE:-python:3.11-slim} AS standalone
RUN groupadd --gid 10001 scoring \
    && useradd --uid 10001 --gid 10001 --create-home --no-log-init scoring
ENV HOME=/home/scoring \
    PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/var/azureml-app \
    PYTHONUNBUFFERED=1 \
    SCORING_HOST=0.0.0.0
COPY --from=standalone-packages /opt/venv/ /opt/venv/
COPY scoring_runtime/ /var/azureml-app/scoring_runtime/
RUN python -m compileall -q --invalidation-mode checked-hash /var/azureml-app/scoring_runtime
RUN find /var/azureml-app ! -type l \
    \( ! -perm -a=r -o -perm /go=w -o -type d ! -perm -a=x \) -exec chmod a+rX,go-w {} +
WORKDIR /var/azureml-app
LABEL \
    org.opencontainers.image.title="scoring-runtime" \
    org.opencontainers.image.version="0.2.0" \
    org.opencontainers.image.description="A trained model behind HTTP requests, dropped blobs and queue messages" \
    org.opencontainers.image.licenses="MIT"
USER 10001:10001
EXPOSE 5001
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-I", "-c", "import http.client as h, os, ssl; e = os.environ.get; t = e('SCORING_TLS_CERT'); p = t and e('SEPERATE_HEALTH_ENDPOINT') == 'true'; a = ('127.0.0.1', int(e('HEALTH_PORT', 5000) if p else e('SERVER_PORT', 5001))); c = h.HTTPSConnection(*a, timeout=4, context=ssl._create_unverified_context()) if t and not p else h.HTTPConnection(*a, timeout=4); c.request('GET', '/health/live'); raise SystemExit(c.getresponse().status != 200)"]
CMD ["python", "-m", "scoring_runtime", "serve"]

# What a build without --target makes.
FROM functions
