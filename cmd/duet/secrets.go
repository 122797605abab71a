package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// fileSuffix, behind the name of a secret setting, names the variable with the path of the file that
// holds it, as container platforms hand secrets over. It means nothing behind other settings.
const fileSuffix = "_FILE"

// maxSecretBytes is the most that such a file may hold.
const maxSecretBytes = 64 << 10

// readSecretFiles puts into variables what the files hold that it names, without the line's end.
func readSecretFiles(variables map[string]string, settings []setting) (faults []error) {
	for _, s := range settings {
		name := s.name + fileSuffix
		path := variables[name]
		if !s.secret || path == "" {
			continue
		}
		secret, err := readSecret(path)
		switch {
		case variables[s.name] != "":
			faults = append(faults, fmt.Errorf("%s: %s is set too; leave one of them out", name, s.name))
		case err != nil:
			faults = append(faults, fmt.Errorf("%s=%q: %w", name, path, err))
		default:
			variables[s.name] = secret
		}
	}
	return faults
}

func readSecret(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", errors.Unwrap(err) // the path is named already
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSecretBytes+1))
	switch secret := strings.TrimRight(string(text), "\r\n"); {
	case err != nil:
		return "", errors.Unwrap(err)
	case len(text) > maxSecretBytes:
		return "", fmt.Errorf("the file is larger than %d KiB", maxSecretBytes>>10)
	case secret == "":
		return "", errors.New("the file is empty")
	default:
		return secret, nil
	}
}
