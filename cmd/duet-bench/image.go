package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// smallFiles are what the image may hold beside the binary: the authorities' certificates, a quarter of
// a megabyte, and an empty folder for its data.
var smallFiles = []string{"/etc/ssl/certs/ca-certificates.crt", "/data"}

// nothingButBinary says what a Dockerfile's last stage puts into the image beside the server's binary;
// nil where that is nothing but smallFiles, so that the binary's size is the image's.
func nothingButBinary(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var adds []string
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch instruction := strings.ToUpper(f[0]); {
		case instruction == "FROM":
			if adds = nil; f[1] != "scratch" {
				adds = []string{"the base image " + f[1]}
			}
		case instruction == "RUN", instruction == "ADD", instruction == "COPY" && f[len(f)-2] != "/duet" && !slices.Contains(smallFiles, f[len(f)-2]):
			adds = append(adds, strings.TrimSpace(line))
		}
	}
	if adds != nil {
		return fmt.Errorf("the binary is not all that the image holds; build it and read its size. There is also: %s", strings.Join(adds, "; "))
	}
	return nil
}
