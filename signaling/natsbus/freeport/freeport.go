// Package freeport finds ports for servers that tests and tools start, and that must know each other's.
package freeport

import "net"

// Find returns n different TCP ports of 127.0.0.1 that nobody listens on just now.
func Find(n int) (ports []int, _ error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // held until the last one is found: none is found twice
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}
