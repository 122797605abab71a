// Package signaling holds rooms, seats and messages: everything a call needs before the two
// browsers speak to each other directly, and nothing about HTTP or WebSocket.
//
// The way of a message: a transport hands its bytes to [Conn.Receive], which decodes them
// (message.go) and posts a command to the room. The room's goroutine (room.go; join.go has who may sit) owns the room; it
// puts the message into the ring of every seat it is for (ring.go) and wakes the seat's [Outlet],
// whose transport fetches it with [Conn.Next].
//
// Section numbers in comments are those of docs/protocol.md.
package signaling
