# docker build -t telstar .
# docker run -p 9876:9876 -p 10911:10911 -p 10909:10909 -v telstar:/data telstar start --advertise ADDRESS_OF_THIS_HOST

FROM rust:1-slim-bookworm AS build
# ring and mimalloc compile C.
RUN apt-get update && apt-get install -y --no-install-recommends build-essential && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin telstar
# A directory that the unprivileged user of the next stage may write; a new volume takes over its owner.
RUN mkdir /data

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/release/telstar /usr/local/bin/telstar
COPY --from=build --chown=nonroot:nonroot /data /data
ENV TELSTAR_STORE__DATA_DIR=/data
VOLUME /data
EXPOSE 9876 10911 10909
# Ends in order on SIGTERM, which docker stop sends.
ENTRYPOINT ["/usr/local/bin/telstar"]
CMD ["start"]
