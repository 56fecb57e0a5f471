# A worker: the supervisor as PID 1, a Java runtime, and Embulk with the class-data archive of this very Java and these very files.
# `make images` makes it from what `docker/build` stages (the context), on Debian or what is derived from it: BASE=… make images
ARG BASE=debian:12-slim
FROM ${BASE}
RUN command -v java >/dev/null || { \
      mkdir -p /usr/share/man/man1 && apt-get update && apt-get install -y --no-install-recommends default-jre-headless && rm -rf /var/lib/apt/lists/*; }
# A name for the user: Java looks for one.
RUN echo 'sendo:x:10001:10001::/tmp:/usr/sbin/nologin' >>/etc/passwd && echo 'sendo:x:10001:' >>/etc/group
COPY embulk /opt/embulk
# Not composed on another machine: the archive holds only where it was made.
COPY archive /tmp/archive
RUN /tmp/archive /opt/embulk && rm /tmp/archive
COPY sendo-supervisor /usr/local/bin/sendo-supervisor
ENV PATH=/opt/embulk/bin:/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8
USER 10001:10001
# The root may be read-only; Java and Embulk write to /tmp alone.
ENTRYPOINT ["/usr/local/bin/sendo-supervisor", "--"]
CMD ["embulk", "run"]
