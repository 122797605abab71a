//go:build !linux

package main

import (
	"context"
	"errors"
	"net/netip"
	"os/exec"
	"runtime"
	"time"
)

var errLinux = errors.New("measuring servers on this machine needs Linux (epoll, /proc); `duet-bench -url wss://…` works everywhere")

func newLocalNetwork(context.Context, ...netip.AddrPort) (network, error) { return nil, errLinux }
func cores() (coreSet, error)                                             { return coreSet{}, errLinux }
func pin(int) error                                                       { return errLinux }
func startOn(int, *exec.Cmd) error                                        { return errLinux }
func onCore(int, func() error) error                                      { return errLinux }
func cpuTime(int) (time.Duration, error)                                  { return 0, errLinux }
func coreTime(...int) (time.Duration, error)                              { return 0, errLinux }
func ownTime() time.Duration                                              { return 0 }
func resident(int) (int64, error)                                         { return 0, errLinux }
func raiseFiles() (uint64, error)                                         { return 0, errLinux }
func machine() string                                                     { return runtime.GOOS + "/" + runtime.GOARCH }
