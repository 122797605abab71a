package signaling

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A RoomID is a room's name: 1 to 128 bytes of UTF-8 in any script, compared byte for byte.
type RoomID string

// A PeerID names one client instance: the first 16 characters of base64url(SHA-256(session key)),
// so that it stays the same across reconnects and restarts of the server (section 3).
type PeerID string

// MaxTokenLen is the most characters of a join's token.
const MaxTokenLen = 4096

const (
	maxRoomBytes   = 128
	maxNameRunes   = 64
	minSessionLen  = 22 // 16 random bytes as base64url
	maxSessionLen  = 128
	maxPeerIDLen   = 64
	peerIDLen      = 16
	maxSafeInteger = 1<<53 - 1 // what every JSON number keeps exactly (RFC 8259 section 6)
)

// A sessionHash is all that the server keeps of a session key.
type sessionHash [sha256.Size]byte // JSON has it as base64

func hashSession(key string) sessionHash { return sha256.Sum256([]byte(key)) }

func (h sessionHash) peerID() PeerID {
	return PeerID(base64.RawURLEncoding.EncodeToString(h[:12]))
}

// randomPeerID is for a client without a session key: a fingerprint of a key nobody has.
func randomPeerID() PeerID {
	var b [12]byte
	rand.Read(b[:])
	return PeerID(base64.RawURLEncoding.EncodeToString(b[:]))
}

var (
	errRoom = fmt.Errorf("room must be 1 to %d bytes of text without control characters and without white space at its ends", maxRoomBytes)
	errName = fmt.Errorf("name must be at most %d characters without control or bidirectional-override characters", maxNameRunes)
)

// CheckRoom says for people what is wrong with s as a room's name (section 2); nil = nothing.
func CheckRoom(s string) error {
	if s == "" || len(s) > maxRoomBytes || strings.TrimSpace(s) != s || !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
		return errRoom
	}
	return nil
}

// CheckName says for people what is wrong with s as a peer's name (section 2); nil = nothing.
func CheckName(s string) error {
	unprintable := func(r rune) bool { return unicode.IsControl(r) || isBidiControl(r) }
	if utf8.RuneCountInString(s) > maxNameRunes || !utf8.ValidString(s) || strings.ContainsFunc(s, unprintable) {
		return errName
	}
	return nil
}

// isBidiControl reports the embeddings, overrides and isolates that reorder the text around them
// (UAX #9 section 2).
func isBidiControl(r rune) bool {
	return r >= '\u202a' && r <= '\u202e' || r >= '\u2066' && r <= '\u2069'
}

func validSession(s string) bool {
	if len(s) < minSessionLen || len(s) > maxSessionLen {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_')
	})
}
