# The image holds one static binary, which runs as nobody in particular and writes nothing.
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$VERSION" -o /duet ./cmd/duet

FROM scratch
COPY --from=build /duet /duet
USER 65532:65532
# The operator's listener stays on the container's loopback address (DUET_ADMIN_ADDR) and is not exposed.
EXPOSE 8080
ENTRYPOINT ["/duet"]
