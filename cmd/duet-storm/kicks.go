package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// kicks is the storm in which all clients lose their connections again and again.
type kicks struct {
	rooms, each int
	every       time.Duration
	rate        float64
}

func newKicks(f *flag.FlagSet) storm {
	k := new(kicks)
	f.IntVar(&k.rooms, "rooms", 1000, "rooms of two")
	f.IntVar(&k.each, "kicks", 20, "kicks of each client")
	f.DurationVar(&k.every, "every", 4*time.Second, "time between two kicks of a client, on average")
	f.Float64Var(&k.rate, "rate", 2, "messages a second of each client")
	return k
}

func (k *kicks) run(ctx context.Context, w *world) (string, error) {
	// Where the machine is so busy that a client cannot come back within the usual grace, a lost seat
	// would say nothing about the server.
	s, err := w.start("127.0.0.1:0", "DUET_GRACE=10m")
	if err != nil {
		return "", err
	}
	defer s.kill()
	var total totals
	stop := w.watch(func() string { return total.String() })
	defer stop()
	var calls sync.WaitGroup
	var first sync.Mutex
	var faults []error
	for n := range k.rooms {
		random := rand.New(rand.NewPCG(w.seed, uint64(n)))
		c := &call{server: s.addr, room: fmt.Sprint("storm-", n), kicks: k.each, every: k.every, rate: k.rate, total: &total}
		calls.Go(func() {
			if err := c.run(ctx, random); err != nil {
				first.Lock()
				defer first.Unlock()
				faults = append(faults, err)
			}
		})
	}
	calls.Wait()
	if err := s.alive(); err != nil {
		faults = append(faults, err)
	}
	if want := int64(2 * k.rooms * k.each); total.kicked() < want && len(faults) == 0 {
		faults = append(faults, fmt.Errorf("%d kicks of %d", total.kicked(), want))
	}
	return total.String(), errors.Join(total.violation(), some(faults))
}

// some joins the first few errors.
func some(errs []error) error {
	if len(errs) > 5 {
		errs = append(errs[:5:5], fmt.Errorf("and %d more", len(errs)-5))
	}
	return errors.Join(errs...)
}
