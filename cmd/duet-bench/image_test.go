package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestNothingButBinary(t *testing.T) {
	for name, c := range map[string]struct{ file, fault string }{
		"the binary alone": {"FROM golang AS build\nRUN go build\nFROM scratch\nCOPY --from=build /duet /duet\nENTRYPOINT [\"/duet\"]\n", ""},
		"a base image":     {"FROM scratch\nFROM debian:stable\nCOPY --from=build /duet /duet\n", "the base image debian:stable"},
		"one more file":    {"FROM scratch\nCOPY --from=build /etc/ssl /etc/ssl\nCOPY --from=build /duet /duet\n", "COPY --from=build /etc/ssl /etc/ssl"},
	} {
		path := filepath.Join(t.TempDir(), "Dockerfile")
		if err := os.WriteFile(path, []byte(c.file), 0o600); err != nil {
			t.Fatal(err)
		}
		err := nothingButBinary(path)
		if (err != nil) != (c.fault != "") || err != nil && !strings.Contains(err.Error(), c.fault) {
			t.Errorf("%s: %v, want %q", name, err, c.fault)
		}
	}
	if err := nothingButBinary("../../Dockerfile"); err != nil {
		t.Error(err)
	}
}
