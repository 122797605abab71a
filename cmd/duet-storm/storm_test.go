package main

import (
	"context"
	"io"
	"math"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"duet/cmd/internal/natsproc"
)

// binary builds the server once for all tests. It is removed by TestMain.
var binary = sync.OnceValues(func() (*world, error) {
	w := new(world)
	return w, w.build(context.Background())
})

func TestMain(m *testing.M) {
	natsproc.Main()
	if apart() { // the test's own binary is the storm's
		main()
		return
	}
	code := m.Run()
	if w, err := binary(); err == nil && w.folder != "" {
		w.close()
	}
	os.Exit(code)
}

func serverBinary(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("builds and runs the server")
	}
	w, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	return w.binary
}

// A small storm of each kind, on the real server.
// onlyInAStorm skips what takes a machine of its own: real seconds decide there.
func onlyInAStorm(t *testing.T) {
	t.Helper()
	if os.Getenv("DUET_STORM") == "" {
		t.Skip("takes a quiet machine: make storm runs it")
	}
}

func TestModes(t *testing.T) {
	onlyInAStorm(t)
	for _, args := range []string{
		"kicks -rooms 15 -kicks 1 -every 400ms -rate 10",
		"restart -clients 200 -down 100ms",
		"restart -clients 200 -down 100ms -signal TERM",
		"soak -rooms 5 -for 4s -grace 10s",
	} {
		t.Run(args, func(t *testing.T) {
			var out strings.Builder
			binary := serverBinary(t)
			mode, flags, _ := strings.Cut(args, " ")
			if err := run(t.Context(), append([]string{mode, "-bin", binary}, strings.Fields(flags)...), &out, io.Discard); err != nil {
				t.Error(err)
			}
			if strings.Count(out.String(), "\n") != 1 {
				t.Errorf("the summary is one line: %q", out.String())
			}
			t.Log(strings.TrimSpace(out.String()))
		})
	}
}

func TestWrongFlags(t *testing.T) {
	for args, want := range map[string]string{
		"":                           "a mode is missing",
		"earthquake":                 `there is no mode "earthquake"`,
		"kicks more":                 `unexpected "more"`,
		"restart -signal HUP -bin x": "must be KILL or TERM",
	} {
		if err := run(t.Context(), strings.Fields(args), io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", args, err, want)
		}
	}
}

func TestCompare(t *testing.T) {
	refused := map[int]bool{2: true}
	for _, c := range []struct {
		sent int
		got  []int
		want result
	}{
		{4, []int{1, 3, 4}, result{}},
		{4, []int{1, 4}, result{lost: 1}},
		{4, nil, result{lost: 3}},
		{4, []int{1, 3, 3, 4}, result{duplicated: 1}},
		{4, []int{1, 4, 3}, result{reordered: 1}},
		{4, []int{1, 2, 3, 4}, result{refusedButGot: 1}},
		{4, []int{1, 3, 4, 5}, result{duplicated: 1}},
		{4, []int{3, 1, 3, 4}, result{duplicated: 1, reordered: 1}},
	} {
		if got := compare(c.sent, refused, c.got); got != c.want {
			t.Errorf("%v: %+v, want %+v", c.got, got, c.want)
		}
	}
}

func TestLine(t *testing.T) {
	mean, slope, off := line([]float64{0, 1, 2, 3}, []float64{5, 7, 9, 11})
	if mean != 8 || math.Abs(slope-2) > 1e-9 || off > 1e-9 {
		t.Errorf("%v, %v ± %v", mean, slope, off)
	}
	if _, slope, off := line([]float64{0, 1, 2, 3}, []float64{0, 1, 0, 1}); math.Abs(slope-0.2) > 1e-9 || math.Abs(off-math.Sqrt(0.8/2/5)) > 1e-9 {
		t.Errorf("%v ± %v", slope, off)
	}
	if _, slope, _ := line([]float64{1, 1}, []float64{0, 1}); slope != 0 {
		t.Errorf("two points: %v", slope)
	}
}

func TestBusiest(t *testing.T) {
	zero := time.Unix(0, 0)
	var moments []time.Time
	for _, ms := range []int{500, 0, 60, 199, 90, 100, 150} {
		moments = append(moments, zero.Add(time.Duration(ms)*time.Millisecond))
	}
	if n, at := busiest(moments, 100*time.Millisecond); n != 4 || at != zero.Add(60*time.Millisecond) && at != zero.Add(100*time.Millisecond) {
		t.Errorf("%d at %v", n, at)
	}
}

// Three nodes and three NATS servers lose a node that owns rooms, and are replaced by those of the next
// release one by one, and back.
func TestCluster(t *testing.T) {
	binary := serverBinary(t)
	var out, progress strings.Builder
	args := []string{"cluster", "-bin", binary, "-runs", "1", "-pairs", "6", "-fours", "1", "-rate", "2", "-drain", "2s", "-only", "owner killed,rolling upgrade"}
	if err := run(t.Context(), args, &out, &progress); err != nil {
		t.Errorf("%v\n%s", err, progress.String())
	}
	t.Log(strings.TrimSpace(out.String()))
}

// The owner's cable is pulled, each node and each NATS server on a machine of its own.
func TestClusterOfMachines(t *testing.T) {
	onlyInAStorm(t)
	binary := serverBinary(t)
	var progress strings.Builder
	args := []string{"cluster", "-bin", binary, "-runs", "1", "-pairs", "6", "-fours", "1", "-rate", "2", "-drain", "2s", "-only", "cable pulled for 5 s"}
	if err := run(t.Context(), args, io.Discard, &progress); err != nil {
		t.Errorf("%v\n%s", err, progress.String())
	}
	if strings.Contains(progress.String(), "are left out") {
		t.Skip(progress.String())
	}
	t.Log(progress.String())
}

// The account of what two said to each other, with each way to go wrong.
func TestAccount(t *testing.T) {
	struck := time.Unix(1000, 0)
	at := func(s float64) time.Time { return struck.Add(time.Duration(s * float64(time.Second))) }
	came := func(from, to float64) *word { return &word{at: at(from), times: 1, gotAt: at(to)} }
	for _, c := range []struct {
		name   string
		words  []*word
		fresh  [2][]time.Time // when each lost its seat
		mayEnd bool
		want   account
		relays time.Duration
		wrong  bool
	}{
		{name: "all came", words: []*word{came(1, 1.1), came(2, 2.1)}, want: account{sent: 2, longest: 100 * time.Millisecond}},
		{name: "one late", words: []*word{came(1, 4), came(2, 4), came(4, 4.5)}, want: account{sent: 3, longest: 3 * time.Second}, relays: 4500 * time.Millisecond},
		{name: "one lost", words: []*word{came(1, 1), {at: at(2)}, came(3, 3)}, want: account{sent: 3, lost: 1}, relays: 3 * time.Second, wrong: true},
		{name: "refused", words: []*word{{at: at(1), refused: true}}, want: account{sent: 1, refused: 1}},
		{name: "refused and came", words: []*word{{at: at(1), refused: true, times: 1, gotAt: at(1)}}, want: account{sent: 1, refusedButGot: 1}, wrong: true},
		{name: "the sender was told", words: []*word{{at: at(1)}}, fresh: [2][]time.Time{{at(2)}, nil}, mayEnd: true, want: account{sent: 1, reported: 1, fresh: 1}},
		{name: "the other was told", words: []*word{{at: at(1)}}, fresh: [2][]time.Time{nil, {at(2)}}, mayEnd: true, want: account{sent: 1, reported: 1, fresh: 1}},
		{name: "said after that", words: []*word{{at: at(3), seat: 1}}, fresh: [2][]time.Time{{at(2)}, {at(2)}}, mayEnd: true, want: account{sent: 1, lost: 1, fresh: 2}, wrong: true},
		{name: "told, and nobody died", words: nil, fresh: [2][]time.Time{{at(2)}, nil}, want: account{fresh: 1}, wrong: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &party{struck: struck}
			r := &room{mayEnd: c.mayEnd}
			for i := range 2 {
				r.members = append(r.members, &member{party: p, room: r, index: i, fresh: c.fresh[i], said: make([][]*word, 2)})
			}
			r.members[0].said[1] = c.words
			p.rooms = []*room{r}
			got, err := p.account()
			c.want.relays, c.want.back = []time.Duration{c.relays}, []time.Duration{0}
			if !reflect.DeepEqual(got, c.want) || (err != nil) != c.wrong {
				t.Errorf("%+v, %v; want %+v, wrong: %v", got, err, c.want, c.wrong)
			}
		})
	}
}
