package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
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
	alertsTestFile = "../../deploy/prometheus/alerts_test.yml"

	kubernetesCluster = "../../deploy/kubernetes/cluster.yaml"
	natsFile          = "../../deploy/nats/nats-server.conf"
	haproxyFile       = "../../deploy/haproxy/haproxy.cfg"
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
			if strings.HasPrefix(name, "nats-") {
				testComposeNATS(t, name, service)
			}
			if !regexp.MustCompile(`:v?\d+\.\d+\.\d+$`).MatchString(dig(service, "image").(string)) {
				t.Errorf("%s: %s is not pinned", name, dig(service, "image"))
			}
			continue
		}
		cfg := settingsOf(t, composeEnvironment(service))
		if grace := seconds(t, dig(service, "stop_grace_period")); grace <= cfg.Drain {
			t.Errorf("%s is killed after %s, and drains for %s", name, grace, cfg.Drain)
		}
		if cfg.clustered() { // behind the balancer
			if len(ports) > 0 || !strings.Contains(readText(t, haproxyFile), fmt.Sprintf("server %s %[1]s%s\n", name, cfg.Addr)) {
				t.Errorf("the balancer does not know %s at %s, or it is published: %v", name, cfg.Addr, ports)
			}
			continue
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
	wantAt(t, services["balancer"], []any{"127.0.0.1:8090:8080"}, "ports")
	for _, name := range []string{"duet-1", "duet-2"} {
		node := settingsOf(t, composeEnvironment(services[name]))
		if string(node.NodeID) != name || node.TrustedProxies == nil {
			t.Errorf("%s: %+v", name, node)
		}
		for i, at := range node.NATSURL {
			if want := fmt.Sprintf("nats://duet:%v@nats-%d.nats", dig(services["nats-0"], "environment", "DUET_PASSWORD"), i); at != want {
				t.Errorf("%s: %s, want %s", name, at, want)
			}
		}
		// Prometheus finds it.
		wantAt(t, services[name], dig(readYAML(t, prometheusFile)[0], "scrape_configs", 0, "dns_sd_configs", 0, "names"), "networks", "default", "aliases")
		if port := dig(readYAML(t, prometheusFile)[0], "scrape_configs", 0, "dns_sd_configs", 0, "port"); string(node.AdminAddr) != fmt.Sprint(":", port) {
			t.Errorf("%s: Prometheus asks port %v, not %s", name, port, node.AdminAddr)
		}
	}
	cfg := settingsOf(t, composeEnvironment(services["duet"]))
	wantAt(t, readYAML(t, prometheusFile)[0], "duet"+string(cfg.AdminAddr), "scrape_configs", 0, "static_configs", 0, "targets", 0)
}

// testComposeNATS checks one of the NATS servers.
func testComposeNATS(t *testing.T, name string, service any) {
	var environ []string
	for k, v := range dig(service, "environment").(map[string]any) {
		environ = append(environ, fmt.Sprintf("%s=%v", k, v))
	}
	options := natsOptions(t, environ)
	if options.ServerName != name || options.StoreDir != "/data" {
		t.Errorf("%s is called %s, and keeps its files in %s", name, options.ServerName, options.StoreDir)
	}
	wantAt(t, service, []any{name + ".nats"}, "networks", "default", "aliases")
	wantAt(t, service, []any{"./deploy/nats:/etc/nats:ro", name + ":/data"}, "volumes")
	wantAt(t, service, []any{"--config", "/etc/nats/nats-server.conf"}, "command")
	wantAt(t, service, "SIGUSR2", "stop_signal")
	if grace := seconds(t, dig(service, "stop_grace_period")); grace <= options.LameDuckDuration {
		t.Errorf("%s is killed after %s, and needs %s", name, grace, options.LameDuckDuration)
	}
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
	rules := "./deploy/prometheus/alerts.yml:/etc/prometheus/alerts.yml:ro"
	wantAt(t, readYAML(t, prometheusFile)[0], []any{filepath.Base(alertsFile)}, "rule_files")
	if !slices.Contains(dig(services, "prometheus", "volumes").([]any), any(rules)) {
		t.Errorf("Prometheus does not get %s", rules)
	}
	dashboard := dig(services, "grafana", "environment", "GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH").(string)
	if filepath.Dir(dashboard) != folder || !slices.Contains(dig(services, "grafana", "volumes").([]any), any("./deploy/grafana/duet.json:"+dashboard+":ro")) {
		t.Errorf("the dashboard is at %s, Grafana looks in %s", dashboard, folder)
	}
}

// TestAlerts runs what alerts_test.yml says of each alert: when it fires, and when it does not. The page for
// operators explains each.
func TestAlerts(t *testing.T) {
	var alerts []string
	for _, group := range dig(readYAML(t, alertsFile)[0], "groups").([]any) {
		for _, rule := range dig(group, "rules").([]any) {
			alerts = append(alerts, dig(rule, "alert").(string))
		}
	}
	fires, silent := map[any]bool{}, map[any]bool{}
	for _, test := range dig(readYAML(t, alertsTestFile)[0], "tests").([]any) {
		for _, moment := range dig(test, "alert_rule_test").([]any) {
			fires[dig(moment, "alertname")] = fires[dig(moment, "alertname")] || dig(moment, "exp_alerts") != nil
			silent[dig(moment, "alertname")] = silent[dig(moment, "alertname")] || dig(moment, "exp_alerts") == nil
		}
	}
	for _, alert := range alerts {
		if !fires[alert] || !silent[alert] {
			t.Errorf("%s says of %s that it fires: %v, that it is silent: %v", alertsTestFile, alert, fires[alert], silent[alert])
		}
	}
	var explained []string
	for _, m := range regexp.MustCompile("(?m)^\\| `(Duet\\w+)` \\|").FindAllStringSubmatch(readText(t, clusterDoc), -1) {
		explained = append(explained, m[1])
	}
	if !slices.Equal(explained, alerts) {
		t.Errorf("docs/cluster.md explains %v, the alerts are %v", explained, alerts)
	}
	promtool := lookDaemon("promtool")
	if promtool == "" {
		t.Skip("promtool is not installed: whether alerts fire is not tried (make need-proxies installs it, with Prometheus)")
	}
	if out, err := exec.CommandContext(t.Context(), promtool, "test", "rules", alertsTestFile).CombinedOutput(); err != nil {
		t.Errorf("promtool test rules %s: %v\n%s", alertsTestFile, err, out)
	}
}

// TestCapacityArithmetic reckons again what docs/cluster.md says of NATS for many people, with the figures that
// the page has measured.
func TestCapacityArithmetic(t *testing.T) {
	text := readText(t, clusterDoc)
	cells := func(head string) []string {
		_, rest, found := strings.Cut(text, "\n| "+head+" | ")
		if !found {
			t.Fatalf("there is no row %q", head)
		}
		line, _, _ := strings.Cut(rest, " |\n")
		text = rest // the next row is below
		return strings.Split(line, " | ")
	}
	number := func(cell string) float64 {
		value, err := strconv.ParseFloat(strings.ReplaceAll(cell, ",", ""), 64)
		if err != nil {
			t.Error(err)
		}
		return value
	}
	cells("messages/s")
	cells("CPU µs per message, all duets")
	measured := slices.Delete(cells("… and NATS"), 1, 2) // 4,000 a second costs what 1,000 do
	nodes := cells("duet nodes")
	relayed := cells("relayed messages a second")
	between := cells("relayed messages a second between two nodes")
	messages := cells("NATS messages a second, 2.3 each")
	cores := cells("NATS cores for them, at " + strings.Join(measured, " · ") + " µs")
	for i, people := range []float64{1e5, 1e6, 1e7} {
		all := 80 * people / 2 / 300
		n := number(nodes[i])
		hop := all * (n - 1) / n
		for what, pair := range map[string][2]float64{
			"relayed":       {number(relayed[i]), all},
			"between nodes": {number(between[i]), hop},
			"NATS messages": {number(messages[i]), 2.3 * hop},
		} {
			if math.Abs(pair[0]-pair[1]) > 0.5 {
				t.Errorf("%.0f people: %s %.0f a second, and the page says %.0f", people, what, pair[1], pair[0])
			}
		}
		for j, cell := range strings.Split(cores[i], " · ") {
			if got, want := number(cell), hop*1.8*number(measured[j])*1e-6; math.Abs(got-want) > max(0.05*want, 0.005) {
				t.Errorf("%.0f people at %s µs: %.3f cores, and the page says %s", people, measured[j], want, cell)
			}
		}
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

// readKubernetes reads a manifest's objects, by kind and name.
func readKubernetes(t *testing.T, path string) map[string]any {
	t.Helper()
	objects := map[string]any{}
	for _, document := range readYAML(t, path) {
		key := fmt.Sprint(dig(document, "kind"), "/", dig(document, "metadata", "name"))
		if objects[key] != nil {
			t.Errorf("%s is there twice", key)
		}
		objects[key] = document
	}
	return objects
}

// environmentOf is what a container gets; values from elsewhere are stand-ins.
func environmentOf(container any) (environ []string) {
	var known []string // pairs for a replacer
	for _, v := range dig(container, "env").([]any) {
		name, value := dig(v, "name").(string), "stand-in"
		if plain := dig(v, "value"); plain != nil {
			value = strings.NewReplacer(known...).Replace(fmt.Sprint(plain))
		}
		known = append(known, "$("+name+")", value)
		environ = append(environ, name+"="+value)
	}
	return environ
}

func TestKubernetes(t *testing.T) {
	for _, path := range []string{kubernetesFile, kubernetesCluster} {
		t.Run(filepath.Base(path), func(t *testing.T) { testDuetPods(t, readKubernetes(t, path)) })
	}
	single, several := readKubernetes(t, kubernetesFile), readKubernetes(t, kubernetesCluster)
	wantAt(t, single["Deployment/duet"], 1, "spec", "replicas")
	wantAt(t, single["Deployment/duet"], "Recreate", "spec", "strategy", "type")
	wantAt(t, several["Deployment/duet"], map[string]any{"maxSurge": 1, "maxUnavailable": 0}, "spec", "strategy", "rollingUpdate")
}

// testDuetPods checks what a manifest says of duet itself.
func testDuetPods(t *testing.T, objects map[string]any) {
	pod := dig(objects["Deployment/duet"], "spec", "template", "spec")
	container := dig(pod, "containers", 0)
	cfg := settingsOf(t, environmentOf(container))
	if clustered := dig(objects["Deployment/duet"], "spec", "replicas") != 1; clustered != cfg.clustered() {
		t.Errorf("more than one replica: %v, one of several nodes: %v", clustered, cfg.clustered())
	}

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
	for _, probe := range []string{"startupProbe", "livenessProbe", "readinessProbe"} {
		if dig(container, probe) == nil && probe == "startupProbe" {
			continue
		}
		path, _ := dig(container, probe, "httpGet", "path").(string)
		if status, _ := get(t, strings.TrimSuffix(server.page, "/")+path); status != 200 {
			t.Errorf("%s: %s answers %d", probe, path, status)
		}
		wantAt(t, container, "http", probe, "httpGet", "port")
	}
	testHardened(t, pod)
	wantAt(t, pod, false, "enableServiceLinks") // a Service called duet makes DUET_PORT and others

	testSelectors(t, objects, "Deployment/duet", "Service/duet", "PodDisruptionBudget/duet", "NetworkPolicy/duet")
	wantAt(t, objects["Service/duet"], "http", "spec", "ports", 0, "targetPort")
	backend := dig(objects["Ingress/duet"], "spec", "rules", 0, "http", "paths", 0, "backend", "service")
	wantAt(t, backend, "duet", "name")
	wantAt(t, backend, dig(objects["Service/duet"], "spec", "ports", 0, "name"), "port", "name")
	// With one replica, less would keep nodes of Kubernetes from being drained.
	wantAt(t, objects["PodDisruptionBudget/duet"], 1, "spec", "maxUnavailable")
}

// testHardened wants a pod that can do as little as possible.
func testHardened(t *testing.T, pod any) {
	t.Helper()
	wantAt(t, pod, true, "securityContext", "runAsNonRoot")
	wantAt(t, pod, 65532, "securityContext", "runAsUser")
	wantAt(t, pod, false, "automountServiceAccountToken")
	for _, container := range dig(pod, "containers").([]any) {
		wantAt(t, container, true, "securityContext", "readOnlyRootFilesystem")
		wantAt(t, container, false, "securityContext", "allowPrivilegeEscalation")
		wantAt(t, container, []any{"ALL"}, "securityContext", "capabilities", "drop")
	}
}

// testSelectors wants what belongs to the pods of workload to select them by their labels.
func testSelectors(t *testing.T, objects map[string]any, workload string, others ...string) {
	t.Helper()
	labels := dig(objects[workload], "spec", "template", "metadata", "labels")
	wantAt(t, objects[workload], labels, "spec", "selector", "matchLabels")
	paths := map[string][]any{
		"Service": {"spec", "selector"}, "PodDisruptionBudget": {"spec", "selector", "matchLabels"}, "NetworkPolicy": {"spec", "podSelector", "matchLabels"}}
	for _, name := range others {
		kind, _, _ := strings.Cut(name, "/")
		wantAt(t, objects[name], labels, paths[kind]...)
	}
	spread, _ := dig(objects[workload], "spec", "template", "spec", "topologySpreadConstraints").([]any)
	for _, constraint := range spread {
		wantAt(t, constraint, labels, "labelSelector", "matchLabels")
	}
}

// TestKubernetesNATS checks the NATS servers of the cluster's manifest against the files of deploy/nats, which
// TestNATSConfiguration starts.
func TestKubernetesNATS(t *testing.T) {
	objects := readKubernetes(t, kubernetesCluster)
	for _, name := range []string{"nats-server.conf", "permissions.conf"} {
		wantAt(t, objects["ConfigMap/nats"], readText(t, "../../deploy/nats/"+name), "data", name)
	}
	set := objects["StatefulSet/nats"]
	pod := dig(set, "spec", "template", "spec")
	container := dig(pod, "containers", 0)
	testHardened(t, pod)
	testSelectors(t, objects, "StatefulSet/nats", "Service/nats", "PodDisruptionBudget/nats", "NetworkPolicy/nats")
	wantAt(t, set, dig(objects["Service/nats"], "metadata", "name"), "spec", "serviceName")
	wantAt(t, set, 3, "spec", "replicas")
	wantAt(t, objects["PodDisruptionBudget/nats"], 1, "spec", "maxUnavailable")

	options := natsOptions(t, environmentOf(container))
	names := map[string]any{}
	for _, p := range dig(container, "ports").([]any) {
		names[dig(p, "name").(string)] = dig(p, "containerPort")
	}
	if names["client"] != options.Port || names["route"] != options.Cluster.Port || names["monitor"] != options.HTTPPort {
		t.Errorf("ports %v, the file says %d, %d and %d", names, options.Port, options.Cluster.Port, options.HTTPPort)
	}
	if len(options.Routes) != dig(set, "spec", "replicas") {
		t.Errorf("routes: %v", options.Routes)
	}
	for i, route := range options.Routes {
		if want := fmt.Sprintf("nats-%d.nats:%d", i, options.Cluster.Port); route.Host != want {
			t.Errorf("route %s, want %s", route.Host, want)
		}
	}
	if grace := time.Duration(dig(pod, "terminationGracePeriodSeconds").(int)) * time.Second; grace <= options.LameDuckDuration {
		t.Errorf("it is killed after %s, and needs %s", grace, options.LameDuckDuration)
	}
	mounts := fmt.Sprint(dig(container, "volumeMounts"))
	if !strings.Contains(mounts, "mountPath:"+options.StoreDir) || !strings.Contains(mounts, "mountPath:/etc/nats") {
		t.Errorf("mounts: %v", mounts)
	}
	secrets := dig(objects["Secret/nats"], "stringData").(map[string]any)
	pods := []any{container, dig(objects["Deployment/duet"], "spec", "template", "spec", "containers", 0)}
	for _, c := range pods {
		for _, v := range dig(c, "env").([]any) {
			if key, ok := dig(v, "valueFrom", "secretKeyRef", "key").(string); ok && secrets[key] == nil {
				t.Errorf("the secret has no %s", key)
			}
		}
	}
	// The nodes know all of the servers.
	cfg := settingsOf(t, environmentOf(pods[1]))
	for i, at := range cfg.NATSURL {
		if want := fmt.Sprintf("nats://duet:stand-in@nats-%d.nats", i); at != want {
			t.Errorf("%s, want %s", at, want)
		}
	}
}

// TestOperatorsDocs looks up what the pages name: files, settings, make targets.
func TestOperatorsDocs(t *testing.T) {
	for _, name := range []string{"cluster.md", "deploy.md", "observe.md", "operator.md", "proxies.md"} {
		text := readText(t, "../../docs/"+name)
		for _, m := range regexp.MustCompile(`\]\(([^)#:]+)(?:#[^)]*)?\)`).FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat("../../docs/" + m[1]); err != nil {
				t.Errorf("%s links to %s, which is not there", name, m[1])
			}
		}
		for _, m := range regexp.MustCompile(`DUET_[A-Z_]+[A-Z]`).FindAllString(text, -1) {
			if !slices.Contains(natsVariables, m) && len(unknownSettings([]string{m + "=x"})) > 0 {
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
