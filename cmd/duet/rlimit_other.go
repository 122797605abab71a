//go:build !unix

package main

// descriptorLimit returns a number that is safe where the system names no limit.
func descriptorLimit() int { return defaultDescriptors }
