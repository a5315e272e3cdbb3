# syntax=docker/dockerfile:1

# Both can be replaced, as scripts/image does where no registry can be reached. The version of the first is
# that of rust-toolchain.toml, which stays out of the image: rustup would install from it. The second
# needs glibc alone; any base as new as the first's will do, with a shell in it or without.
ARG BUILD_IMAGE=rust:1.95-slim-bookworm
ARG BASE_IMAGE=debian:bookworm-slim

# hadolint ignore=DL3006
FROM ${BUILD_IMAGE} AS build
WORKDIR /build

# The dependencies alone, in a layer that lives until the manifest or the lock file changes. Cargo
# does not miss the other targets as long as Cargo.toml gives the path of each that it names.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src \
    && echo 'fn main() {}' >src/main.rs \
    && touch src/lib.rs \
    && cargo build --locked --release --bin mahspeccy-bridge \
    && rm -r src

# `touch`: cargo goes by time, and the copied files may be older than the stand-ins above.
COPY src src
COPY migrations migrations
RUN touch src/main.rs src/lib.rs \
    && cargo build --locked --release --bin mahspeccy-bridge

# hadolint ignore=DL3006
FROM ${BASE_IMAGE}
# The roots that cTrader, Supabase and brokers are signed by are compiled in; these are for what a URL names
# by itself, as sslrootcert=/etc/ssl/certs/ca-certificates.crt does. Nothing is run in this stage.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /build/target/release/mahspeccy-bridge /usr/local/bin/mahspeccy-bridge
# One heap for all threads: several would each keep what they once needed.
ENV MALLOC_ARENA_MAX=1
# It writes no file: the root file system may be read-only.
USER 10001:10001
EXPOSE 3000
ENTRYPOINT ["/usr/local/bin/mahspeccy-bridge"]
CMD ["worker"]
