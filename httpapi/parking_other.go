//go:build !linux

package httpapi

// Elsewhere than on Linux each socket waits in a goroutine of its own.
type (
	parking struct{}
	place   struct{}
)

func (*parking) add(*socket) bool       { return false }
func (*parking) remove(*socket)         {}
func descriptor(any) (int, bool)        { return 0, false }
func readNow(int, []byte) (int, error)  { return 0, errIdle }
func writeNow(int, []byte) (int, error) { return 0, errIdle }
