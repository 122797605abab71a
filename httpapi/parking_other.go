//go:build !linux

package httpapi

import "time"

// Elsewhere than on Linux each socket waits in a goroutine of its own.
const minPatience, maxPatience = 0, 0 // never

type (
	parking struct{}
	place   struct{}
)

func (*parking) park(*socket, time.Time) bool { return false }
func (*parking) unpark(*socket)               {}
func descriptor(any) (int, bool)              { return 0, false }
