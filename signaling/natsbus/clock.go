package natsbus

import "time"

// A clock is the time since some moment before the process began. Its rate is all that the lease
// depends on: clocks of two nodes may differ by as much as they like.
type clock func() time.Duration
