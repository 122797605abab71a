package signaling

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// modelSetting reads DUET_MODEL_SEQUENCES, DUET_MODEL_SEED or DUET_MODEL_DEPTH, which make the runs
// longer, or other ones.
func modelSetting(t testing.TB, name string, otherwise int) int {
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s must be a whole number: %v", name, err)
	}
	return n
}

// A runner runs sequences one after the other, on one hub while the scene and luck allow it.
type runner struct {
	hub   *Hub
	scene scene

	applied bool // whether the last operation of the last run could do anything

	sequences, ops, messages, got, audited, arrivals int64
}

// run runs one sequence to its end. at is the operation that failed; len(ops) stands for the end.
func (r *runner) run(s scene, ops []op) (at int, err error) {
	w, at, err := r.runOnly(s, ops, nil, nil)
	if err != nil || !s.Calm {
		return at, err
	}
	calm := func(who int) bool { return who >= s.Clients && who < s.everybody() }
	alone, _, err := r.runOnly(s, ops, calm, w.waited)
	if err != nil {
		return len(ops), fmt.Errorf("the calm room alone: %w", err)
	}
	if with, without := w.transcript(calm), alone.transcript(calm); !slices.Equal(with, without) {
		return len(ops), fmt.Errorf("what the calm room hears differs with the faults elsewhere:\n%q\nand without:\n%q", with, without)
	}
	return 0, nil
}

func (r *runner) runOnly(s scene, ops []op, only func(int) bool, waits []time.Duration) (w *world, at int, err error) {
	if r.hub == nil || r.scene.Capacity != s.Capacity || r.scene.Rate != s.Rate || r.scene.Burst != s.Burst {
		r.hub, r.scene = newTestHub(s.config()), s
	}
	w = newWorld(s, r.hub)
	if only != nil {
		w.only, w.replay = only, waits
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
		r.hub = w.hub
		if err != nil {
			w.endHub()
			r.hub = nil
		}
		r.sequences++
		r.ops += int64(at)
		r.messages += int64(w.messages)
		r.audited += int64(w.audit.messages)
		r.arrivals += int64(w.audit.arrivals)
		for _, l := range w.links {
			r.got += int64(len(l.got))
		}
	}()
	for at = range ops {
		if err := w.do(ops[at]); err != nil {
			return w, at, err
		}
	}
	r.applied = w.applied
	return w, len(ops), w.end()
}

// fail shrinks a sequence that fails, and ends the test with what is left of it.
func (r *runner) fail(t testing.TB, s scene, ops []op, found error) {
	t.Helper()
	s, ops, at, err := r.shrink(s, ops)
	if err == nil {
		t.Fatalf("%v\nand not again, when the same was tried once more:\n%s", found, program(s, ops))
	}
	t.Fatalf("operation %d of %d: %v\nTo replay it, write this to testdata/model/<name>.txt:\n%s", at, len(ops), err, program(s, ops))
}

// shrink takes out of a failing sequence whatever it fails without.
func (r *runner) shrink(s scene, ops []op) (_ scene, _ []op, at int, err error) {
	fails := func(s scene, ops []op) bool {
		a, e := r.run(s, ops)
		if e != nil {
			at, err = a, e
		}
		return e != nil
	}
	if !fails(s, ops) {
		return s, ops, 0, nil
	}
	ops = slices.Clone(ops[:min(at+1, len(ops))])
	for changed := true; changed; {
		changed = false
		for size := max(1, len(ops)/2); size > 0; size /= 2 {
			for i := 0; i+size <= len(ops); {
				if fewer := slices.Delete(slices.Clone(ops), i, i+size); fails(s, fewer) {
					ops, changed = fewer, true
				} else {
					i += size
				}
			}
		}
		for i := range ops {
			for _, simpler := range []func(*op){
				func(o *op) { o.A = 0 }, func(o *op) { o.B = 0 }, func(o *op) { o.C = 0 }, func(o *op) { o.Conn = 0 }} {
				with := slices.Clone(ops)
				if simpler(&with[i]); with[i] != ops[i] && fails(s, with) {
					ops, changed = with, true
				}
			}
		}
		for _, simpler := range []func(*scene){
			func(s *scene) { s.Calm = false }, func(s *scene) { s.Plain = 0 }, func(s *scene) { s.Elsewhere = 0 },
			func(s *scene) { s.Eager = 0 }, func(s *scene) { s.Capacity = 2 }, func(s *scene) { s.Clients = max(1, s.Clients-1) }} {
			with := s
			if simpler(&with); with != s && fails(with, ops) {
				s, changed = with, true
			}
		}
	}
	fails(s, ops)
	return s, ops, at, err
}

// inShards runs f in as many bubbles as there are processors, each with a runner, and logs what all
// of them did.
func inShards(t *testing.T, f func(t *testing.T, r *runner, shard, shards int)) {
	shards := 2
	var sum runner
	add := func(to *int64, n int64) { atomic.AddInt64(to, n) }
	t.Run("shards", func(t *testing.T) {
		for shard := range shards {
			t.Run(strconv.Itoa(shard), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					var r runner
					f(t, &r, shard, shards)
					add(&sum.sequences, r.sequences)
					add(&sum.ops, r.ops)
					add(&sum.messages, r.messages)
					add(&sum.got, r.got)
					add(&sum.audited, r.audited)
					add(&sum.arrivals, r.arrivals)
				})
			})
		}
	})
	t.Logf("%d sequences, %d operations: %d messages sent, %d got, of which the clients judged %d; %d arrivals checked",
		sum.sequences, sum.ops, sum.messages, sum.got, sum.audited, sum.arrivals)
}

// Rooms do what the model does, whatever their clients do.
func TestModel(t *testing.T) {
	few := map[bool]int{false: 2000, true: 500}[raceEnabled]
	sequences := modelSetting(t, "DUET_MODEL_SEQUENCES", few)
	seed := uint64(modelSetting(t, "DUET_MODEL_SEED", 1))
	inShards(t, func(t *testing.T, r *runner, shard, shards int) {
		for i := shard; i < sequences; i += shards {
			c := newRandomChooser(seed, uint64(i))
			s, ops := generate(c, 10+c.choose(80))
			if _, err := r.run(s, ops); err != nil {
				t.Logf("DUET_MODEL_SEED=%d, sequence %d", seed, i)
				r.fail(t, s, ops, err)
			}
		}
	})
}

// alphabet is what two peers may do in TestModelExhaustively.
var alphabet = func() []op {
	all := []op{{Do: opWait, A: len(waits) - 2}}
	for who := range 2 {
		for _, o := range []op{
			{Do: opSend}, {Do: opRead}, {Do: opAck}, {Do: opLeave},
			{Do: opLose, A: int(EndLost)}, // of a connection, noticed
			{Do: opCome},                  // with a higher attempt, whether the old connection lives or not
			{Do: opSend, Conn: 1},         // by the connection before, too late
			{Do: opLose, Conn: 1, A: int(EndLeft)},
		} {
			o.Who = who
			all = append(all, o)
		}
	}
	return all
}()

// Two peers with sessions, and every sequence of up to so many operations, whoever does which.
func TestModelExhaustively(t *testing.T) {
	depth := modelSetting(t, "DUET_MODEL_DEPTH", 3)
	inShards(t, func(t *testing.T, r *runner, shard, shards int) {
		s := scene{Capacity: 2, Clients: 2, Rate: 1000, Burst: 10000}
		ops := []op{{Do: opCome, Who: 0}, {Do: opCome, Who: 1}}
		var visit func(left int)
		visit = func(left int) {
			for i, o := range alphabet {
				if left == depth && i%shards != shard {
					continue
				}
				ops = append(ops, o)
				if _, err := r.run(s, ops); err != nil {
					r.fail(t, s, ops, err)
				}
				if r.applied && left > 1 { // what can do nothing leads nowhere new
					visit(left - 1)
				}
				ops = ops[:len(ops)-1]
			}
		}
		visit(depth)
	})
}

// What failed once does not fail again.
func TestModelFound(t *testing.T) {
	files, err := filepath.Glob("testdata/model/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s, ops, err := parseProgram(string(text))
			if err != nil {
				t.Fatal(err)
			}
			synctest.Test(t, func(t *testing.T) {
				if at, err := new(runner).run(s, ops); err != nil {
					t.Fatalf("operation %d: %v", at+1, err)
				}
			})
		})
	}
}

// Any bytes are a sequence.
func FuzzModel(f *testing.F) {
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		c := &byteChooser{data}
		s := generateScene(c)
		var ops []op
		for len(c.left) > 0 && len(ops) < 200 {
			ops = append(ops, generateOp(c, s))
		}
		synctest.Test(t, func(t *testing.T) {
			if _, err := new(runner).run(s, ops); err != nil {
				new(runner).fail(t, s, ops, err)
			}
		})
	})
}
