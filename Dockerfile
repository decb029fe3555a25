# Two images from one file: `airflow` (every Airflow component, and the training) and `mlflow` (the server alone).
# BASE_IMAGE is any Debian with Python 3.11 and its venv module.
ARG BASE_IMAGE=python:3.11.14-slim-bookworm

FROM ${BASE_IMAGE} AS base
# One user for all services; no shell, no home that could be written to.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin pump
ENV PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    LANG=C.UTF-8 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp
WORKDIR /opt/pump_ml

FROM base AS build
# The byte code is checked by nobody at run time, so no time stamp ends up in it: same lock, same files.
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1 PYTHONHASHSEED=0 SOURCE_DATE_EPOCH=1767225600
RUN python -m venv /opt/venv
# Some packages carry templates of Python files that nobody imports and that do not compile: they are passed over.
RUN printf '%s\n' \
    'import compileall, py_compile, sysconfig' \
    'mode = py_compile.PycInvalidationMode.UNCHECKED_HASH' \
    'compileall.compile_dir(sysconfig.get_path("purelib"), quiet=2, workers=0, invalidation_mode=mode)' > /tmp/compile.py

FROM build AS mlflow-build
COPY requirements-mlflow.lock ./
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --quiet --no-deps --require-hashes -r requirements-mlflow.lock \
 && pip uninstall --quiet --yes pip setuptools \
 && /opt/venv/bin/python /tmp/compile.py

FROM build AS airflow-build
COPY requirements.lock ./
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --quiet --no-deps --require-hashes -r requirements.lock

FROM airflow-build AS airflow-venv
# The headers serve those who compile operations for TensorFlow.
RUN rm -r /opt/venv/lib/python3*/site-packages/tensorflow/include \
 && pip uninstall --quiet --yes pip setuptools hatchling editables \
 && /opt/venv/bin/python /tmp/compile.py

# The project lies beside its environment: a change of it makes a small layer, not one of 3 GB.
FROM airflow-build AS project
COPY pyproject.toml README.md LICENSE ./
COPY expectations ./expectations
COPY pump_ml ./pump_ml
RUN pip install --quiet --no-deps --no-index --no-build-isolation --target /opt/pump_ml/lib . \
 && python -m compileall -q --invalidation-mode unchecked-hash /opt/pump_ml/lib

FROM base AS mlflow
COPY --from=mlflow-build /opt/venv /opt/venv
COPY deploy/setup /opt/pump_ml/setup
USER 10001:10001
EXPOSE 5000
CMD ["mlflow", "server", "--help"]

FROM base AS airflow
RUN install -d -o pump -g pump /opt/airflow /opt/airflow/logs /var/lib/pump_ml
ENV AIRFLOW_HOME=/opt/airflow \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/pump_ml/dags \
    AIRFLOW__CORE__PLUGINS_FOLDER=/opt/pump_ml/plugins \
    PUMP_ML_VAR=/var/lib/pump_ml
COPY --from=airflow-venv /opt/venv /opt/venv
ENV PYTHONPATH=/opt/pump_ml/lib \
    PATH=/opt/pump_ml/lib/bin:/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
COPY --from=project /opt/pump_ml/lib /opt/pump_ml/lib
COPY deploy/setup /opt/pump_ml/setup
COPY dags /opt/pump_ml/dags
COPY plugins /opt/pump_ml/plugins
# The commit that was built, for the lineage of every model.
ARG GIT_SHA=unknown
ENV PUMP_ML_GIT_SHA=${GIT_SHA}
USER 10001:10001
EXPOSE 8080
CMD ["airflow", "version"]
