package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSecretsFromFiles(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const servers = `[{"urls":"turn:192.0.2.1","username":"u","credential":"hunter2"}]`
	good := file("good", servers+"\n")
	c, err := parseConfig([]string{"DUET_ICE_SERVERS_FILE=" + good}, 20_000)
	if err != nil || len(c.ICEServers) != 1 || c.ICEServers[0].Credential != "hunter2" {
		t.Fatalf("%+v, %v", c.ICEServers, err)
	}
	if unknown := unknownSettings([]string{"DUET_ICE_SERVERS_FILE=" + good, "DUET_GRACE_FILE=" + good}); len(unknown) != 1 {
		t.Errorf("unknown settings: %v", unknown)
	}
	for what, tt := range map[string]struct {
		environ []string
		want    string
	}{
		"both":      {[]string{"DUET_ICE_SERVERS_FILE=" + good, "DUET_ICE_SERVERS=" + servers}, "leave one of them out"},
		"missing":   {[]string{"DUET_ICE_SERVERS_FILE=" + filepath.Join(dir, "none")}, "no such file"},
		"a folder":  {[]string{"DUET_ICE_SERVERS_FILE=" + dir}, "is a directory"},
		"empty":     {[]string{"DUET_ICE_SERVERS_FILE=" + file("empty", "\n")}, "the file is empty"},
		"too large": {[]string{"DUET_ICE_SERVERS_FILE=" + file("large", strings.Repeat("x", maxSecretBytes+1))}, "larger than 64 KiB"},
		"bad":       {[]string{"DUET_ICE_SERVERS_FILE=" + file("bad", "hunter2")}, "DUET_ICE_SERVERS: "},
	} {
		_, err := parseConfig(tt.environ, 20_000)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", what, err)
		}
	}
}
