# The image holds one static binary, which runs as nobody in particular and writes nothing but /data,
# where certificates are kept that it makes or obtains (mount a volume there for those).
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$VERSION" -o /duet ./cmd/duet \
    && mkdir /data

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /duet /duet
COPY --from=build --chown=65532:65532 /data /data
USER 65532:65532
ENV DUET_DATA_DIR=/data
# The operator's listener stays on the container's loopback address (DUET_ADMIN_ADDR) and is not exposed.
EXPOSE 8080
# There is no shell: duet asks itself, over http or https.
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s --retries=3 CMD ["/duet", "health"]
ENTRYPOINT ["/duet"]
