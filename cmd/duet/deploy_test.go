package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

// Nothing here starts a container: what is compared is files with the code, and with each other.

const (
	composeFile    = "../../docker-compose.yml"
	dockerfile     = "../../Dockerfile"
	systemdUnit    = "../../deploy/systemd/duet.service"
	kubernetesFile = "../../deploy/kubernetes/duet.yaml"
	prometheusFile = "../../deploy/prometheus/prometheus.yml"
)

// readYAML reads the documents of a file, as JSON would have them.
func readYAML(t testing.TB, path string) (documents []any) {
	t.Helper()
	decoder := yaml.NewDecoder(strings.NewReader(readText(t, path)))
	for {
		var document any
		err := decoder.Decode(&document)
		if err == io.EOF {
			return documents
		}
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		documents = append(documents, document)
	}
}

// dig goes down into v by names and positions; nil where there is nothing.
func dig(v any, path ...any) any {
	for _, p := range path {
		switch at := v.(type) {
		case map[string]any:
			name, _ := p.(string)
			v = at[name]
		case []any:
			i, ok := p.(int)
			if !ok || i >= len(at) {
				return nil
			}
			v = at[i]
		default:
			return nil
		}
	}
	return v
}

// wantAt compares what is at path in v.
func wantAt(t *testing.T, v, want any, path ...any) {
	t.Helper()
	if got := dig(v, path...); !reflect.DeepEqual(got, want) {
		t.Errorf("%v is %v, want %v", path, got, want)
	}
}

// settingsOf checks an environment as duet does when it starts, and returns it in effect.
func settingsOf(t *testing.T, environ []string) config {
	t.Helper()
	if unknown := unknownSettings(environ); len(unknown) > 0 {
		t.Errorf("unknown settings: %v", unknown)
	}
	cfg, err := parseConfig(environ, 1<<20)
	if err != nil {
		t.Errorf("bad settings: %v", err)
	}
	return cfg
}

func seconds(t *testing.T, v any) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(fmt.Sprint(v))
	if err != nil {
		t.Errorf("%v is no duration", v)
	}
	return d
}

// interpolation is ${NAME:-default} of the compose specification.
var interpolation = regexp.MustCompile(`\$\{\w+:-([^}]*)\}`)

// TestCompose checks the file against the specification's own schema (github.com/compose-spec/compose-go),
// and what a schema cannot say.
func TestCompose(t *testing.T) {
	var schema any
	readJSON(t, "testdata/compose-spec.json", &schema)
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("compose.json", schema); err != nil {
		t.Fatal(err)
	}
	compose, err := compiler.Compile("compose.json")
	if err != nil {
		t.Fatal(err)
	}
	file := readYAML(t, composeFile)[0]
	text, err := json.Marshal(file)
	if err != nil {
		t.Fatal(err)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if err := compose.Validate(value); err != nil {
		t.Error(err)
	}

	services := dig(file, "services").(map[string]any)
	volumes := dig(file, "volumes").(map[string]any)
	for name, service := range services {
		wantAt(t, service, true, "read_only")
		wantAt(t, service, []any{"ALL"}, "cap_drop")
		wantAt(t, service, []any{"no-new-privileges:true"}, "security_opt")
		wantAt(t, service, nil, "privileged")
		mounts, _ := dig(service, "volumes").([]any)
		for _, mount := range mounts {
			source, _, _ := strings.Cut(mount.(string), ":")
			_, named := volumes[source]
			if _, err := os.Stat("../../" + source); err != nil && !named {
				t.Errorf("%s: there is no %s", name, source)
			}
			if strings.HasPrefix(source, "./") && !strings.HasSuffix(mount.(string), ":ro") {
				t.Errorf("%s may write to %s", name, source)
			}
		}
		ports, _ := dig(service, "ports").([]any)
		for _, port := range ports {
			if !strings.HasPrefix(port.(string), "127.0.0.1:") {
				t.Errorf("%s is published to everybody: %s", name, port)
			}
		}
		if dig(service, "image") != "duet" {
			if !regexp.MustCompile(`:v?\d+\.\d+\.\d+$`).MatchString(dig(service, "image").(string)) {
				t.Errorf("%s: %s is not pinned", name, dig(service, "image"))
			}
			continue
		}
		cfg := settingsOf(t, composeEnvironment(service))
		if grace := seconds(t, dig(service, "stop_grace_period")); grace <= cfg.Drain {
			t.Errorf("%s is killed after %s, and drains for %s", name, grace, cfg.Drain)
		}
		if _, port, _ := strings.Cut(string(cfg.Addr), ":"); dig(service, "network_mode") == nil && !slices.Contains(ports, any("127.0.0.1:8080:"+port)) {
			t.Errorf("%s listens on %s, the published ports are %v", name, cfg.Addr, ports)
		}
	}
	// Without a profile there is the page, and nothing else.
	for name, service := range services {
		if profiles := dig(service, "profiles"); (profiles == nil) != (name == "duet") {
			t.Errorf("%s: profiles %v", name, profiles)
		}
	}
	if cfg := settingsOf(t, composeEnvironment(services["lan"])); !cfg.TLSSelfSigned || cfg.TurnAddr == "" || cfg.DataDir != "/data" {
		t.Errorf("lan: %+v", cfg)
	}
	cfg := settingsOf(t, composeEnvironment(services["duet"]))
	wantAt(t, readYAML(t, prometheusFile)[0], "duet"+string(cfg.AdminAddr), "scrape_configs", 0, "static_configs", 0, "targets", 0)
}

// composeEnvironment is what a service gets where the user's environment is empty, with what its image sets.
func composeEnvironment(service any) []string {
	environ := []string{"DUET_DATA_DIR=/data"}
	environment, _ := dig(service, "environment").(map[string]any)
	for name, value := range environment {
		environ = append(environ, name+"="+interpolation.ReplaceAllString(fmt.Sprint(value), "$1"))
	}
	return environ
}

func TestGrafanaProvisioning(t *testing.T) {
	source := readYAML(t, "../../deploy/grafana/provisioning/datasources/prometheus.yml")[0]
	services := dig(readYAML(t, composeFile)[0], "services")
	wantAt(t, source, "prometheus", "datasources", 0, "uid")
	wantAt(t, source, "http://prometheus:9090", "datasources", 0, "url")
	wantAt(t, source, dig(readYAML(t, prometheusFile)[0], "global", "scrape_interval"), "datasources", 0, "jsonData", "timeInterval")
	folder := dig(readYAML(t, "../../deploy/grafana/provisioning/dashboards/duet.yml")[0], "providers", 0, "options", "path").(string)
	dashboard := dig(services, "grafana", "environment", "GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH").(string)
	if filepath.Dir(dashboard) != folder || !slices.Contains(dig(services, "grafana", "volumes").([]any), any("./deploy/grafana/duet.json:"+dashboard+":ro")) {
		t.Errorf("the dashboard is at %s, Grafana looks in %s", dashboard, folder)
	}
}

func TestDockerfile(t *testing.T) {
	text := readText(t, dockerfile)
	_, final, _ := strings.Cut(text, "\nFROM scratch\n")
	var environ []string
	for _, m := range regexp.MustCompile(`(?m)^ENV (\S+)$`).FindAllStringSubmatch(final, -1) {
		environ = append(environ, m[1])
	}
	cfg := settingsOf(t, environ)
	for _, want := range []string{"USER 65532:65532", "EXPOSE " + strings.TrimPrefix(string(cfg.Addr), ":"),
		`ENTRYPOINT ["/duet"]`, `HEALTHCHECK .* CMD \["/duet", "health"\]`, "COPY .*--chown=65532:65532 /data " + string(cfg.DataDir)} {
		if !regexp.MustCompile("(?m)^(" + want + "|" + regexp.QuoteMeta(want) + ")$").MatchString(final) {
			t.Errorf("%s is missing", want)
		}
	}
	// What is embedded has to be sent to the build.
	ignore := readText(t, "../../.dockerignore")
	for _, m := range regexp.MustCompile(`(?m)^//go:embed (.+)$`).FindAllStringSubmatch(readText(t, "../../static/embed.go"), -1) {
		for pattern := range strings.FieldsSeq(m[1]) {
			if !strings.Contains(ignore, "\n!static/"+pattern+"\n") {
				t.Errorf(".dockerignore keeps static/%s out", pattern)
			}
		}
	}
}

func TestSystemdUnit(t *testing.T) {
	text := readText(t, systemdUnit)
	values := func(name string) (list []string) {
		for _, m := range regexp.MustCompile(`(?m)^`+name+`=(.*)$`).FindAllStringSubmatch(text, -1) {
			list = append(list, m[1])
		}
		return list
	}
	cfg := settingsOf(t, values("Environment"))
	if stop := seconds(t, values("TimeoutStopSec")[0]); stop <= cfg.Drain {
		t.Errorf("it is killed after %s, and drains for %s", stop, cfg.Drain)
	}
	if want := "/var/lib/" + values("StateDirectory")[0]; string(cfg.DataDir) != want {
		t.Errorf("DUET_DATA_DIR is %s, the service's folder %s", cfg.DataDir, want)
	}
	if got := values("RestartPreventExitStatus"); !slices.Equal(got, []string{fmt.Sprint(exitUsage)}) {
		t.Errorf("no restart after %v", got)
	}
	for _, m := range regexp.MustCompile(`DUET_\w+`).FindAllString(text, -1) {
		if len(unknownSettings([]string{m + "=x"})) > 0 {
			t.Errorf("%s is not a setting", m)
		}
	}

	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("no systemd-analyze: the unit is not verified")
	}
	// It wants the program to be there.
	path := filepath.Join(t.TempDir(), "duet.service")
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(text, "/usr/local/bin/duet", os.Args[0])), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", path).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("verify: %v\n%s", err, out)
	}
	const exposure = "15" // 1.5 of 10: "OK"
	if out, err := exec.CommandContext(t.Context(), analyze, "security", "--offline=yes", "--no-pager", "--threshold="+exposure, path).CombinedOutput(); err != nil {
		t.Errorf("security: %v\n%s", err, out)
	}
}

func TestKubernetes(t *testing.T) {
	objects := map[string]any{}
	for _, document := range readYAML(t, kubernetesFile) {
		kind, _ := dig(document, "kind").(string)
		objects[kind] = document
		wantAt(t, document, "duet", "metadata", "name")
	}
	pod := dig(objects["Deployment"], "spec", "template", "spec")
	container := dig(pod, "containers", 0)
	var environ []string
	for _, v := range dig(container, "env").([]any) {
		environ = append(environ, fmt.Sprintf("%v=%v", dig(v, "name"), dig(v, "value")))
	}
	cfg := settingsOf(t, environ)

	ports := map[string]string{}
	for _, p := range dig(container, "ports").([]any) {
		ports[fmt.Sprint(dig(p, "name"))] = fmt.Sprint(":", dig(p, "containerPort"))
	}
	if ports["http"] != string(cfg.Addr) || ports["operator"] != string(cfg.AdminAddr) {
		t.Errorf("ports %v, duet listens on %s and %s", ports, cfg.Addr, cfg.AdminAddr)
	}
	grace := time.Duration(dig(pod, "terminationGracePeriodSeconds").(int)) * time.Second
	before := time.Duration(dig(container, "lifecycle", "preStop", "sleep", "seconds").(int)) * time.Second
	if grace <= before+cfg.Drain {
		t.Errorf("it is killed after %s, and takes %s before it drains for %s", grace, before, cfg.Drain)
	}
	server := startServer(t)
	for _, probe := range []string{"livenessProbe", "readinessProbe"} {
		path, _ := dig(container, probe, "httpGet", "path").(string)
		if status, _ := get(t, strings.TrimSuffix(server.page, "/")+path); status != 200 {
			t.Errorf("%s: %s answers %d", probe, path, status)
		}
		wantAt(t, container, "http", probe, "httpGet", "port")
	}
	wantAt(t, pod, true, "securityContext", "runAsNonRoot")
	wantAt(t, pod, 65532, "securityContext", "runAsUser")
	wantAt(t, pod, false, "enableServiceLinks") // a Service called duet makes DUET_PORT and others
	wantAt(t, pod, false, "automountServiceAccountToken")
	wantAt(t, container, true, "securityContext", "readOnlyRootFilesystem")
	wantAt(t, container, false, "securityContext", "allowPrivilegeEscalation")
	wantAt(t, container, []any{"ALL"}, "securityContext", "capabilities", "drop")

	labels := dig(objects["Deployment"], "spec", "template", "metadata", "labels")
	for kind, path := range map[string][]any{
		"Deployment":          {"spec", "selector", "matchLabels"},
		"Service":             {"spec", "selector"},
		"PodDisruptionBudget": {"spec", "selector", "matchLabels"},
		"NetworkPolicy":       {"spec", "podSelector", "matchLabels"},
	} {
		wantAt(t, objects[kind], labels, path...)
	}
	wantAt(t, objects["Service"], "http", "spec", "ports", 0, "targetPort")
	backend := dig(objects["Ingress"], "spec", "rules", 0, "http", "paths", 0, "backend", "service")
	wantAt(t, backend, "duet", "name")
	wantAt(t, backend, dig(objects["Service"], "spec", "ports", 0, "name"), "port", "name")
	if replicas, allowed := dig(objects["Deployment"], "spec", "replicas"), dig(objects["PodDisruptionBudget"], "spec", "maxUnavailable"); replicas != 1 || allowed != 1 {
		t.Errorf("%v replicas, of which %v may be away: with one, less would keep nodes from being drained", replicas, allowed)
	}
}

// TestOperatorsDocs looks up what the pages name: files, settings, make targets.
func TestOperatorsDocs(t *testing.T) {
	for _, name := range []string{"deploy.md", "observe.md", "proxies.md"} {
		text := readText(t, "../../docs/"+name)
		for _, m := range regexp.MustCompile(`\]\(([^)#:]+)(?:#[^)]*)?\)`).FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat("../../docs/" + m[1]); err != nil {
				t.Errorf("%s links to %s, which is not there", name, m[1])
			}
		}
		for _, m := range regexp.MustCompile(`DUET_[A-Z_]+[A-Z]`).FindAllString(text, -1) {
			if len(unknownSettings([]string{m + "=x"})) > 0 {
				t.Errorf("%s: %s is not a setting", name, m)
			}
		}
		for _, m := range regexp.MustCompile("`make (\\w+)`").FindAllStringSubmatch(text, -1) {
			if !strings.Contains(readText(t, "../../Makefile"), "\n"+m[1]+":") {
				t.Errorf("%s: make %s is not a target", name, m[1])
			}
		}
	}
}
