FROM python:3.12-slim AS build
WORKDIR /src
# Node builds the web page; the image that runs has none.
RUN apt-get update && apt-get install -y --no-install-recommends nodejs npm
COPY . .
RUN pip install --no-cache-dir --prefix /install ".[demo]"

FROM python:3.12-slim
COPY --from=build /install /usr/local
COPY envoy-configs /etc/rollout/envoy-configs
RUN useradd --create-home --uid 10001 rollout && install -d -o rollout -g rollout /var/lib/rollout
USER rollout
WORKDIR /var/lib/rollout
EXPOSE 18000 18080
ENTRYPOINT ["rollout"]
CMD ["serve", "--configs", "/etc/rollout/envoy-configs", "--data", "/var/lib/rollout"]
