# The control program. `make images` makes it from what `docker/build` stages (the context), on a Debian that is at least as new as the
# machine that built `sendo`: BASE=… make images
ARG BASE=debian:12-slim
FROM ${BASE}
RUN test -s /etc/ssl/certs/ca-certificates.crt || { \
      apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*; }
COPY sendo /usr/local/bin/sendo
USER 10001:10001
ENTRYPOINT ["/usr/local/bin/sendo"]
CMD ["serve", "--config", "/etc/sendo/sendo.toml"]
